"""A cache on disk of what slow encoders make of data: latents of pictures, encodings of texts.

An entry's name is the hash of the example's content, and its folder is the hash of the encoder's weights, so that what
is found is what would be computed: change one pixel or one weight and it is missed. Entries lie together in safetensors
shards, written whole or not at all, each with a checksum that is compared whenever it is read.

    key = model_hash(codec, text_encoder)
    data = Cached(pictures, lambda batch: latents(codec.moments)(texts(encode)(batch)), Path("cache"), key)

What is kept of a picture is its moments, such as the mean and the log-variance of its latents, from
from which ``codec.sample`` draws each time that the picture is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from core.data.dataset import Batch, Dataset
from core.data.order import example_order
from core.progress import Progress
from core.weights.checkpoint import CheckpointError, write_whole

Encode = Callable[[Batch], Batch]
Row = Mapping[str, Tensor | str]  # one example
Name = TypeVar("Name")

KEY = "langevin-cache"  # the metadata entry of a shard that says whose it is and what it holds
ENCODING = "encoding the data, in batches"  # what is shown of it
TEXT = ":text"  # how the names of texts end, which are kept as bytes of UTF-8


@runtime_checkable
class Fingerprinted(Protocol):
    """A data set that knows a hash of the content of an example more cheaply than by making it."""

    def fingerprint(self, index: int) -> bytes:
        """Differs where ``get`` does."""


class Entry(NamedTuple):
    """Where an encoded example lies."""

    shard: Path
    names: tuple[str, ...]
    checksum: str


class Cached:
    """The data set ``encode(data.get(...))``, read from the disk; what is not there yet is encoded when it is opened.

    Several processes that open it at once each encode their share of what is missing.
    """

    def __init__(
        self,
        data: Dataset,
        encode: Encode,
        folder: Path,
        key: str,
        batch: int = 16,
        rank: int = 0,
        ranks: int = 1,
        wait: Callable[[], None] = lambda: None,
        shard: int = 256,
        progress: Progress = Progress(),
    ) -> None:
        """key: what the encoding depends on besides the example, see ``model_hash``; batch: examples encoded at once;
        rank, ranks, wait: which of the processes this is, and how it waits for the others; shard: entries in a file.
        A killed run goes on where it was, but for one shard.

        Raises CheckpointError for files that are not part of this cache, or where the disk is full.
        """
        if len(key) < 16 or not key.isalnum():
            raise ValueError(f"'{key}' is no hash to file a cache under: make one with model_hash")
        self.data = data
        self.key = key
        self.folder = folder / key[:32]
        self._entries = self._known()
        self._digests = [content_hash(data, index) for index in progress.track(range(len(data)), "reading the data")]
        missing = {digest: i for i, digest in enumerate(self._digests) if digest not in self._entries}
        # The encoder itself is not kept: what reads ahead in other processes must not carry it along.
        wait()  # until all have seen what is missing, so that they share the same
        self._fill(list(missing.items())[rank::ranks], encode, batch, shard, progress)
        if ranks > 1:
            wait()
            self._entries = self._known()

    def __len__(self) -> int:
        return len(self.data)

    def example_order(self, seed: int, positions: Sequence[int]) -> list[int]:
        """The order of the data below."""
        return example_order(self.data, seed, positions)

    def fingerprint(self, index: int) -> bytes:
        """The hash of what is encoded and of what encodes it."""
        return hashlib.sha256((self._digests[index] + self.key).encode()).digest()

    def get(self, indices: Sequence[int]) -> Batch:
        """The encoded examples. Raises CheckpointError where an entry is damaged."""
        wanted: dict[
            Path, set[str]
        ] = {}  # each shard is opened once, for its header takes longer to read than an entry
        for index in indices:
            digest = self._digests[index]
            wanted.setdefault(self._entries[digest].shard, set()).add(digest)
        rows: dict[str, Row] = {}
        for shard, digests in wanted.items():
            rows |= self._read(shard, digests)
        return joined([rows[self._digests[index]] for index in indices])

    def _known(self) -> dict[str, Entry]:
        """The entries that are there; a shard that cannot be read is deleted, to be made again."""
        found: dict[str, Entry] = {}
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    about = json.loads((file.metadata() or {}).get(KEY, "{}"))
            except (SafetensorError, json.JSONDecodeError, FileNotFoundError):
                path.unlink(missing_ok=True)
                continue
            if about.get("key") != self.key:
                raise CheckpointError(f"{path} is not part of this cache: move it out of there, or cache elsewhere")
            for digest, (checksum, names) in about["entries"].items():
                found[digest] = Entry(path, tuple(names), checksum)
        return found

    @torch.no_grad()
    def _fill(
        self, missing: Sequence[tuple[str, int]], encode: Encode, batch: int, shard: int, progress: Progress
    ) -> None:
        made: dict[str, Row] = {}
        for start in progress.track(range(0, len(missing), batch), ENCODING):
            for group in alike(self.data, missing[start : start + batch]):
                encoded = encode(joined([row for _, row in group]))
                made |= zip((digest for digest, _ in group), split(encoded, len(group)), strict=True)
            if len(made) >= shard or start + batch >= len(missing):
                self._store(made)
                made = {}

    def _store(self, rows: Mapping[str, Row]) -> None:
        entries: dict[str, tuple[str, list[str]]] = {}
        tensors: dict[str, Tensor] = {}
        for digest, row in rows.items():
            packed = {name + TEXT * isinstance(value, str): _packed(value) for name, value in row.items()}
            entries[digest] = (_checksum(packed), list(packed))
            tensors |= {f"{digest}/{name}": value for name, value in packed.items()}
        path = self.folder / f"{hashlib.sha256(''.join(sorted(rows)).encode()).hexdigest()[:32]}.safetensors"
        write_whole(path, save(tensors, {KEY: json.dumps({"key": self.key, "entries": entries})}))
        for digest, (checksum, names) in entries.items():
            self._entries[digest] = Entry(path, tuple(names), checksum)

    def _read(self, shard: Path, digests: Iterable[str]) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        try:
            with safe_open(shard, framework="pt") as file:
                for digest in digests:
                    entry = self._entries[digest]
                    packed = {name: file.get_tensor(f"{digest}/{name}") for name in entry.names}
                    if _checksum(packed) != entry.checksum:
                        raise _damaged(shard)
                    rows[digest] = {name.removesuffix(TEXT): _unpacked(name, value) for name, value in packed.items()}
        except (SafetensorError, OSError) as error:
            raise _damaged(shard) from error
        return rows


def model_hash(*parts: nn.Module | str) -> str:
    """SHA-256 of models (their structure, every weight and buffer, one at a time) and of settings, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        found.update(f"{len(str(part))} {part}".encode())
        if isinstance(part, nn.Module):
            for name, value in sorted([*part.named_parameters(), *part.named_buffers()]):
                found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                found.update(_bytes(value))
    return found.hexdigest()


def content_hash(data: Dataset, index: int) -> str:
    """SHA-256 of an example: as the data set knows it, or else of everything that is in it, in hexadecimal."""
    if isinstance(data, Fingerprinted):
        return data.fingerprint(index).hex()
    return _checksum({name: _packed(value) for name, value in _example(data, index).items()})


def latents(moments: Callable[[Tensor], Tensor]) -> Encode:
    """Replaces "x" by its ``codec.moments``, as "moments": see ``core.codec.Codec``."""
    return lambda batch: (
        {name: value for name, value in batch.items() if name != "x"} | {"moments": moments(batch["x"])}
    )


def texts(encode: Callable[[list[str]], Mapping[str, Tensor]]) -> Encode:
    """Adds what a text encoder makes of "caption", such as tokens (B, L, D) and a pooled vector (B, D), by name."""
    return lambda batch: {**batch, **encode(batch["caption"])}


def _kept(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list) and all(isinstance(text, str) for text in value))


def _example(data: Dataset, index: int) -> Row:
    """The tensors and texts of an example. Anything else, such as how a picture was drawn, is no model's to read."""
    (row,) = split({name: value for name, value in data.get([index]).items() if _kept(value)}, 1)
    return row


def alike(data: Dataset, wanted: Iterable[tuple[Name, int]]) -> list[list[tuple[Name, Row]]]:
    """Examples by name, from their indices, grouped by their shapes."""
    groups: dict[tuple[object, ...], list[tuple[Name, Row]]] = {}
    for name, index in wanted:
        row = _example(data, index)
        shapes = tuple(value.shape for value in row.values() if isinstance(value, Tensor))
        groups.setdefault(shapes, []).append((name, row))
    return list(groups.values())


def split(batch: Batch, count: int) -> list[Row]:
    """The examples of a batch. Raises ValueError where it is not of ``count`` tensors and texts, or not finite."""
    for name, value in batch.items():
        if not _kept(value):
            raise ValueError(f"a cache keeps tensors and lists of texts, and '{name}' is neither: leave it out")
        if len(value) != count:
            raise ValueError(f"'{name}' has {len(value)} rows for {count} examples: an encoder must keep their number")
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"'{name}' contains NaN or infinity, which is not kept: run the encoder in float32")
    return [{name: value[row] for name, value in batch.items()} for row in range(count)]


def joined(rows: Sequence[Row]) -> Batch:
    """The batch of some examples. Raises ValueError where their shapes differ."""
    batch: dict[str, Tensor | list[str]] = {}
    for name in rows[0]:
        tensors = [value for row in rows if isinstance(value := row[name], Tensor)]
        if len({value.shape for value in tensors}) > 1:
            raise ValueError(f"'{name}' differs in shape within a batch: pad it when it is encoded")
        batch[name] = torch.stack(tensors) if tensors else [str(row[name]) for row in rows]
    return batch


def _packed(value: Tensor | str) -> Tensor:
    if isinstance(value, str):
        return torch.tensor(list(value.encode()), dtype=torch.uint8)
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _unpacked(name: str, value: Tensor) -> Tensor | str:
    return bytes(value.tolist()).decode() if name.endswith(TEXT) else value


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(_bytes(value))
    return found.hexdigest()


def _bytes(value: Tensor) -> memoryview:
    array = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return array.data


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} in the cache is damaged or gone: delete it and start again, to rebuild it")
