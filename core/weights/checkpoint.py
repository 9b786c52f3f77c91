"""Checkpoints: one safetensors file, written whole or not at all, whose metadata says what it is.

No pickle is ever read. Whatever a file turns out to be (truncated, foreign, of another model), reading it raises a
``CheckpointError`` that says so in one sentence.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

KEY = "langevin"  # the metadata entry that holds everything, as JSON
FORMAT = 2  # of the checkpoints that are written; those without a number are of format 0
DRAFT = ".draft-"  # how the names of unfinished files begin
DTYPES = {  # as a file's header calls them
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; the message says why and what to do."""


class Outline(NamedTuple):
    """What the header of a safetensors file says."""

    words: dict[str, str]  # its metadata
    tensors: dict[str, Tensor]  # of its shapes and precisions, without contents (on the meta device)


class Mapped(dict[str, Tensor]):
    """Tensors in files that the system maps into memory: it reads a page of a file when it is first used."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[mmap.mmap] = []

    def forget(self, done: Iterable[Tensor] = ()) -> None:
        """Take the files' pages out of memory, until they are used again; what was written to the tensors is undone.

        The system reads a file in clusters of pages, but not across a change of advice: so it is advised differently of
        the tensors that are ``done`` with, and leaves them on the disk when it reads what lies beside them.
        """
        if not hasattr(mmap, "MADV_DONTNEED"):  # Windows
            return
        spans = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in done)
        for file in self.files:
            start = torch.frombuffer(file, dtype=torch.uint8, count=1).data_ptr()
            for first, last in _joined((a - start, b - start) for a, b in spans if start <= a < start + len(file)):
                page, end = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
                if page < end:
                    file.madvise(mmap.MADV_RANDOM, page, end - page)
            file.madvise(mmap.MADV_DONTNEED)


def _joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted spans of bytes, those with less than a page between them as one."""
    first, last = 0, 0
    for start, end in spans:
        if start - last >= mmap.PAGESIZE:
            yield first, last
            first = start
        last = end
    yield first, last


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint so that ``path`` holds either all of it or what was there before; see ``write_whole``."""
    data = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    write_whole(path, save(_without_shared_memory(data), {KEY: json.dumps({"format": FORMAT, **metadata})}))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a plain safetensors file for other programs, whole or not at all; see ``write_whole``."""
    data = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    write_whole(path, save(_without_shared_memory(data), dict(metadata)))


def write_streamed(
    path: Path, outline: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file tensor by tensor, so that only one of them has to be in memory; see ``write_whole``.

    outline: names, shapes and precisions, on the meta device; tensors: the same in the same order.
    """
    codes, place = {dtype: code for code, dtype in DTYPES.items()}, 0
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, value in outline.items():
        end = place + value.numel() * value.element_size()
        header[name] = {"dtype": codes[value.dtype], "shape": list(value.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def chunks() -> Iterator[Any]:
        yield len(text).to_bytes(8, "little") + text
        for (name, planned), (given, value) in zip(outline.items(), tensors, strict=True):
            if given != name or value.shape != planned.shape or value.dtype != planned.dtype:
                raise ValueError(f"{given} was to be {name} {tuple(planned.shape)}: the outline is of other tensors")
            yield value.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data

    _write(path, chunks())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary file beside it, to the disk, and only then under its name.

    Raises CheckpointError when the folder cannot be written or the disk is full.
    """
    _write(path, [content])


def _write(path: Path, chunks: Iterable[Any]) -> None:
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=DRAFT)
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        draft = None
        _sync_folder(path.parent)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(f"cannot write {path} ({reason}): free some space, or choose another folder") from error
    finally:
        if draft is not None:
            os.unlink(draft)


def remove_drafts(folder: Path) -> None:
    """Delete what a killed process left half-written."""
    for draft in folder.glob(f"{DRAFT}*"):
        draft.unlink()


def _without_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The format refuses tensors that share memory (tied weights), so all but the first are copied."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr() if value.numel() else 0
        apart[name] = value.clone() if place in seen else value
        seen.add(place)
    return apart


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_metadata(path: Path) -> dict[str, Any]:
    """What a checkpoint says about itself, in the names of its "format".

    Raises CheckpointError for what is no checkpoint, and for one of a newer format.
    """
    with _opened(path) as file:
        words = (file.metadata() or {}).get(KEY)
    if words is None:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of Langevin: import it first")
    try:
        metadata = json.loads(words)
        _ = metadata["recipe"], metadata["arguments"], list(metadata["averages"])
        written = int(metadata.get("format", 0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the description inside {path} is damaged: the file cannot open itself") from error
    if written > FORMAT:
        raise CheckpointError(
            f"{path} is of format {written}, and this version of Langevin reads formats up to {FORMAT}: "
            "install a newer one"
        )
    return {**metadata, "format": written}


def read(path: Path, prefix: str = "") -> Mapped:
    """The tensors whose names start with ``prefix``, under the rest of their names; see ``Mapped``."""
    shapes = {name: value for name, value in outline(path).tensors.items() if name.startswith(prefix)}
    with path.open("rb") as file:
        length = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length - 8))
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    found = Mapped()
    found.files.append(whole)
    for name, value in shapes.items():
        if value.numel():
            place = length + header[name]["data_offsets"][0]
            flat = torch.frombuffer(whole, dtype=value.dtype, count=value.numel(), offset=place)
        else:
            flat = torch.empty(0, dtype=value.dtype)
        found[name[len(prefix) :]] = flat.view(value.shape)
    return found


def outline(path: Path) -> Outline:
    """What a file holds, from its header alone. Raises CheckpointError for anything but a whole safetensors file."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        strange = {code for part in slices.values() if (code := part.get_dtype()) not in DTYPES}
        if strange:
            raise CheckpointError(f"{path} holds numbers of the kind {min(strange)}, which are not read here")
        tensors = {
            name: torch.empty(part.get_shape(), dtype=DTYPES[part.get_dtype()], device="meta")
            for name, part in slices.items()
        }
        return Outline(dict(file.metadata() or {}), tensors)


def _opened(path: Path) -> Any:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the .safetensors file inside it")
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: give the path of a .safetensors file")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # A safetensors file starts with the length of its header, which may be any two bytes, and then opens a brace.
        if start[8:] != b"{" and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise CheckpointError(f"{path} is a pickle, which could run code when opened: convert it to safetensors")
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is cut short or damaged: get it again") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from error


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Give a module the tensors of ``state``, all of them and no others; raises CheckpointError on any difference."""
    own = module.state_dict()
    wrong = [
        *(f"{name} is missing" for name in own if name not in state),
        *(f"{name} is unknown" for name in state if name not in own),
        *(
            f"{name} has shape {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ),
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{path} does not fit the model: {', '.join(wrong[:3])}{more}")
    grad = {name: value.requires_grad for name, value in module.named_parameters()}
    module.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()}, assign=True)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(grad[name])
