"""Checkpoints: one safetensors file, written whole or not at all, whose metadata says what it is.

No pickle is ever read. Whatever a file turns out to be (truncated, foreign, of another model), reading it raises a
``CheckpointError`` that says so in one sentence.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

KEY = "langevin"  # the metadata entry that holds everything, as JSON
DRAFT = ".draft-"  # how the names of unfinished files begin


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; the message says why and what to do."""


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint so that ``path`` holds either all of it or what was there before; see ``write_whole``."""
    data = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    write_whole(path, save(_unshared(data), {KEY: json.dumps(metadata)}))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a plain safetensors file for other programs, whole or not at all; see ``write_whole``."""
    data = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    write_whole(path, save(_unshared(data), dict(metadata)))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary file beside it, to the disk, and only then under its name.

    Raises CheckpointError when the folder cannot be written or the disk is full.
    """
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=DRAFT)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
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


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
    """What a checkpoint says about itself."""
    with _opened(path) as file:
        words = (file.metadata() or {}).get(KEY)
    if words is None:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of Langevin: import it first")
    try:
        metadata = json.loads(words)
        _ = metadata["recipe"], metadata["arguments"], list(metadata["averages"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"the description inside {path} is damaged: the file cannot open itself") from error
    found: dict[str, Any] = metadata
    return found


def read(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, under the rest of their names."""
    with _opened(path) as file:
        return {name[len(prefix) :]: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118


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
