"""Flux's original layout: the keys of Black Forest Labs' single files, both ways.

The file says nothing of its network, so widths and depths are read off the tensors' shapes. ``linear1`` of a single
block has the rows [q; k; v; perceptron], which are two layers of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from core.nn.flux import Flux
from core.weights.checkpoint import CheckpointError, fill
from core.weights.flux import CELL, PATCH, STACKED, depth, published
from core.weights.pairs import Pair, both, dtype_of, to_ours, to_theirs

PREFIX = "model.diffusion_model."  # where files that hold more than the transformer keep it
ATTENTION, MLP = "linear1[qkv]", "linear1[mlp]"  # our names for the two parts of linear1
SHAPE_KEYS = (  # the tensors whose shapes say what the network is
    "img_in.weight",
    "txt_in.weight",
    "vector_in.in_layer.weight",
    "final_layer.linear.weight",
    "double_blocks.0.img_attn.norm.query_norm.scale",
)


def from_original(tensors: Mapping[str, Tensor], axes: tuple[int, ...] = (16, 56, 56), what: str = "this file") -> Flux:
    """Read the original's tensors; ``axes`` are the rotary channels of a head. Raises CheckpointError if foreign."""
    tensors = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    absent = [name for name in SHAPE_KEYS if name not in tensors]
    if absent:
        raise CheckpointError(f"{what} has no {absent[0]}: it is no original Flux")
    proj_in, text, vector, last, scale = (tensors[name].shape for name in SHAPE_KEYS)
    if sum(axes) != scale[0]:
        raise CheckpointError(f"{what} has heads of {scale[0]} channels, which rotary axes {axes} do not fill")
    guided = "guidance_in.in_layer.weight" in tensors
    doubles, singles = depth(tensors, "double_blocks"), depth(tensors, "single_blocks")
    state = to_ours(original_pairs(doubles, singles, guided), split(tensors), what)
    with torch.device("meta"):
        net = Flux(
            channels=last[0] // CELL,
            heads=proj_in[0] // scale[0],
            doubles=doubles,
            singles=singles,
            text_width=text[1],
            vector_width=vector[1],
            axes=axes,
            patch=PATCH,
            guided=guided,
            concat_channels=(proj_in[1] - last[0]) // CELL,
        )
    fill(net.to(dtype_of(tensors)), state, Path(what))
    return net.eval()


def to_original(net: Flux) -> dict[str, Tensor]:
    """The tensors as the original names them. Raises CheckpointError for a network that it cannot express."""
    published(net)
    state = {name: value.detach() for name, value in net.state_dict().items()}
    pairs = original_pairs(len(net.doubles), len(net.singles), net.guidance is not None)
    return _joined(to_theirs(pairs, state))


def original_pairs(doubles: int, singles: int, guided: bool) -> Iterator[Pair]:
    """The key rules of the original layout, with ``linear1`` in its two parts."""
    yield from both("proj_in", "img_in")
    yield from both("text", "txt_in")
    for ours in ("time", "vector", "guidance") if guided else ("time", "vector"):
        yield from both(f"{ours}.first", f"{ours}_in.in_layer")
        yield from both(f"{ours}.second", f"{ours}_in.out_layer")
    for i in range(doubles):
        for ours, theirs in (("image", "img"), ("text", "txt")):
            stream, stem = f"doubles.{i}.{ours}", f"double_blocks.{i}.{theirs}"
            yield from both(f"{stream}.modulator", f"{stem}_mod.lin")
            yield from both(f"{stream}.attention.qkv", f"{stem}_attn.qkv")
            yield _scales(f"{stream}.attention", f"{stem}_attn.norm")
            yield from both(f"{stream}.project", f"{stem}_attn.proj")
            yield from both(f"{stream}.expand", f"{stem}_mlp.0")
            yield from both(f"{stream}.contract", f"{stem}_mlp.2")
    for i in range(singles):
        single, stem = f"singles.{i}", f"single_blocks.{i}"
        yield from both(f"{single}.modulator", f"{stem}.modulation.lin")
        yield from both(f"{single}.attention.qkv", f"{stem}.{ATTENTION}")
        yield from both(f"{single}.expand", f"{stem}.{MLP}")
        yield _scales(f"{single}.attention", f"{stem}.norm")
        yield from both(f"{single}.proj_out", f"{stem}.linear2")
    yield from both("last_modulator", "final_layer.adaLN_modulation.1")
    yield from both("readout", "final_layer.linear")


def _scales(ours: str, theirs: str) -> Pair:
    return Pair(f"{ours}.scale", (f"{theirs}.query_norm.scale", f"{theirs}.key_norm.scale"), STACKED)


def split(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with every ``linear1`` in its two parts: 3 of its 7 shares are the attention's."""
    parts: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if ".linear1." in key:
            rows = 3 * (len(value) // 7)
            parts[key.replace("linear1", ATTENTION)], parts[key.replace("linear1", MLP)] = (
                value[:rows],
                value[rows:],
            )
        else:
            parts[key] = value
    return parts


def _joined(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse."""
    tensors: dict[str, Tensor] = {}
    for key, value in parts.items():
        if ATTENTION in key:
            tensors[key.replace(ATTENTION, "linear1")] = torch.cat([value, parts[key.replace(ATTENTION, MLP)]])
        elif MLP not in key:
            tensors[key] = value
    return tensors
