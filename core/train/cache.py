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
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from core.data.dataset import Batch, Dataset
from core.train.order import example_order
from core.weights.checkpoint import CheckpointError, write_whole

Encode = Callable[[Batch], Batch]
Row = Mapping[str, Tensor | str]  # one example

KEY = "langevin-cache"  # the metadata entry of a shard that says whose it is and what it holds
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

    Every process that opens it encodes what is missing, so open it in one process before several train on it.
    """

    def __init__(
        self, data: Dataset, encode: Encode, folder: Path, key: str, batch: int = 16, shard: int = 256
    ) -> None:
        """key: what the encoding depends on besides the example, see ``model_hash``; batch: examples encoded at once;
        shard: entries in a file. A killed run goes on where it was, but for one shard.

        Raises CheckpointError for files that are not part of this cache, or where the disk is full.
        """
        if len(key) < 16 or not key.isalnum():
            raise ValueError(f"'{key}' is no hash to file a cache under: make one with model_hash")
        self.data = data
        self.key = key
        self.folder = folder / key[:32]
        self._entries = self._known()
        self._digests = [content_hash(data, index) for index in range(len(data))]
        missing = {digest: i for i, digest in enumerate(self._digests) if digest not in self._entries}
        # The encoder itself is not kept: what reads ahead in other processes must not carry it along.
        self._fill(list(missing.items()), encode, batch, shard)

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
        return _joined([self._read(self._digests[index]) for index in indices])

    def _known(self) -> dict[str, Entry]:
        """The entries that are there; a shard that cannot be read is deleted, to be made again."""
        found: dict[str, Entry] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
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
    def _fill(self, missing: Sequence[tuple[str, int]], encode: Encode, batch: int, shard: int) -> None:
        made: dict[str, Row] = {}
        for start in range(0, len(missing), batch):
            for group in _alike(self.data, missing[start : start + batch]):
                encoded = encode(_joined([row for _, row in group]))
                made |= zip((digest for digest, _ in group), _rows(encoded, len(group)), strict=True)
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

    def _read(self, digest: str) -> Row:
        entry = self._entries[digest]
        try:
            with safe_open(entry.shard, framework="pt") as file:
                packed = {name: file.get_tensor(f"{digest}/{name}") for name in entry.names}
        except (SafetensorError, OSError) as error:
            raise _damaged(entry.shard) from error
        if _checksum(packed) != entry.checksum:
            raise _damaged(entry.shard)
        return {name.removesuffix(TEXT): _unpacked(name, value) for name, value in packed.items()}


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
    (row,) = _rows(data.get([index]), 1)
    return _checksum({name: _packed(value) for name, value in row.items()})


def latents(moments: Callable[[Tensor], Tensor]) -> Encode:
    """Replaces "x" by its ``codec.moments``, as "moments": see ``core.codec.Codec``."""
    return lambda batch: (
        {name: value for name, value in batch.items() if name != "x"} | {"moments": moments(batch["x"])}
    )


def texts(encode: Callable[[list[str]], Mapping[str, Tensor]]) -> Encode:
    """Adds what a text encoder makes of "caption", such as tokens (B, L, D) and a pooled vector (B, D), by name."""
    return lambda batch: {**batch, **encode(batch["caption"])}


def _alike(data: Dataset, missing: Iterable[tuple[str, int]]) -> list[list[tuple[str, Row]]]:
    """Examples grouped by their shapes."""
    groups: dict[tuple[object, ...], list[tuple[str, Row]]] = {}
    for digest, index in missing:
        (row,) = _rows(data.get([index]), 1)
        shapes = tuple(value.shape for value in row.values() if isinstance(value, Tensor))
        groups.setdefault(shapes, []).append((digest, row))
    return list(groups.values())


def _rows(batch: Batch, count: int) -> list[Row]:
    """The examples of a batch. Raises ValueError where it is not of ``count`` tensors and texts, or not finite."""
    for name, value in batch.items():
        if not isinstance(value, Tensor) and not (isinstance(value, list) and all(isinstance(x, str) for x in value)):
            raise ValueError(f"a cache keeps tensors and lists of texts, and '{name}' is neither: leave it out")
        if len(value) != count:
            raise ValueError(f"'{name}' has {len(value)} rows for {count} examples: an encoder must keep their number")
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"'{name}' contains NaN or infinity, which is not kept: run the encoder in float32")
    return [{name: value[row] for name, value in batch.items()} for row in range(count)]


def _joined(rows: Sequence[Row]) -> Batch:
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
