"""Pairs: a foreign layout is a list of (our tensor, the foreign tensors it is made of, how), read and written alike.

Reading and writing are strict: every tensor of both sides is named by exactly one pair.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from core.files import whole
from core.weights.checkpoint import CheckpointError, Mapped, read

WEIGHTS = "diffusion_pytorch_model"
SMALL = 2**16  # bytes


class Form(NamedTuple):
    """How our tensor is made of foreign ones, and how they are made of it again."""

    read: Callable[[list[Tensor]], Tensor]
    write: Callable[[Tensor, int], Sequence[Tensor]]  # our tensor, how many foreign ones


SAME = Form(lambda parts: parts[0], lambda whole, count: [whole] * count)  # written to several: copies
NEGATED = Form(lambda parts: -parts[0], lambda whole, count: [-whole])
ROWS = Form(lambda parts: torch.cat(parts, dim=0), lambda whole, count: whole.chunk(count, dim=0))
COLUMNS = Form(lambda parts: torch.cat(parts, dim=1), lambda whole, count: whole.chunk(count, dim=1))
TRANSPOSED_ROWS = Form(
    lambda parts: torch.cat([part.t() for part in parts]),
    lambda whole, count: [part.t() for part in whole.chunk(count)],
)


class Pair(NamedTuple):
    """One tensor of ours and the foreign ones it is made of."""

    ours: str
    theirs: tuple[str, ...]
    form: Form = SAME


def both(ours: str, *theirs: str, form: Form = SAME) -> Iterator[Pair]:
    """The pairs of a layer's weight and of its bias."""
    for part in ("weight", "bias"):
        yield Pair(f"{ours}.{part}", tuple(f"{name}.{part}" for name in theirs), form)


def dtype_of(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The precision that a file is in."""
    return next((value.dtype for value in tensors.values() if value.is_floating_point()), torch.float32)


def to_ours(pairs: Iterable[Pair], tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Foreign tensors -> our state. Raises CheckpointError naming what is missing, unknown or of unequal shapes.

    Pages of a file that were read to make one tensor of several are taken out of memory again. Small tensors, which
    share their pages with others, are copied.
    """
    pairs = list(pairs)
    named = [name for pair in pairs for name in pair.theirs]
    missing, unknown = sorted(set(named) - tensors.keys()), sorted(tensors.keys() - set(named))
    if missing or unknown:
        words = [f"{word} {', '.join(some[:3])}" for word, some in (("missing", missing), ("unknown", unknown)) if some]
        raise CheckpointError(f"{what} is not of this layout: {len(missing + unknown)} tensors, {'; '.join(words)}")
    state, done = {}, []
    for pair in pairs:
        parts = [tensors[name] for name in pair.theirs]
        if any(part.shape != parts[0].shape for part in parts):
            raise CheckpointError(f"{what} has parts of unequal shapes: {', '.join(pair.theirs)}")
        whole = pair.form.read(parts)
        state[pair.ours] = whole.clone() if isinstance(tensors, Mapped) and whole.nbytes < SMALL else whole
        done += [part for part in parts if part.data_ptr() != state[pair.ours].data_ptr()]
    if isinstance(tensors, Mapped):
        tensors.forget(done)
    return state


def to_theirs(pairs: Iterable[Pair], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state -> foreign tensors. Raises CheckpointError when a tensor of ours has no place in the layout."""
    pairs = list(pairs)
    homeless = sorted(state.keys() - {pair.ours for pair in pairs})
    if homeless:
        raise CheckpointError(f"this layout has no place for {', '.join(homeless[:3])}: save it in our own format")
    return {
        name: part.contiguous().clone()
        for pair in pairs
        for name, part in zip(pair.theirs, pair.form.write(state[pair.ours], len(pair.theirs)), strict=True)
    }


def read_folder(folder: Path, class_name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of a diffusers model folder: one file, a variant, or shards with an index."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder} has no readable config.json: give the folder of a diffusers model") from error
    if config.get("_class_name") != class_name:
        raise CheckpointError(f"{folder} holds a {config.get('_class_name')}: this layout reads {class_name}")
    files = sorted(folder.glob(f"{WEIGHTS}*.safetensors"))
    index = folder / f"{WEIGHTS}.safetensors.index.json"
    if index.exists():
        files = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    elif len(files) > 1:
        files = [file for file in files if file.name == f"{WEIGHTS}.safetensors"] or files[:1]
    if not files:
        raise CheckpointError(
            f"{folder} has no {WEIGHTS}.safetensors: fetch it, or convert its pickle where you trust it"
        )
    tensors = Mapped()
    for file in files:
        shard = read(file)
        tensors.update(shard)
        tensors.files += shard.files
    return config, tensors


def write_folder(folder: Path, class_name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a folder that diffusers loads; each of its two files appears whole. Raises CheckpointError if it cannot."""
    text = json.dumps({"_class_name": class_name, **config}, indent=2, sort_keys=True) + "\n"
    try:
        with whole(folder / "config.json") as draft, whole(folder / f"{WEIGHTS}.safetensors") as weights:
            save_file(dict(tensors), weights, {"format": "pt"})
            draft.write_text(text)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder} ({error}): free some space, or choose another folder") from error
