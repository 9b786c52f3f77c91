"""MMDiT's original layout: the keys of Stability's single files, both ways.

The file says nothing of its network, so everything is read off the names and shapes of its tensors. Queries, keys and
values are fused as ours are, and every norm takes (shift, scale).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from core.nn.mmdit import MMDiT
from core.weights.checkpoint import CheckpointError
from core.weights.flux import STACKED, depth
from core.weights.mmdit import TABLE, assemble, patches, published, state_of
from core.weights.pairs import Pair, both, to_theirs

PREFIX = "model.diffusion_model."  # where files that hold more than the transformer keep it
SHAPE_KEYS = (  # the tensors whose shapes say what the network is
    "x_embedder.proj.weight",
    "context_embedder.weight",
    "y_embedder.mlp.0.weight",
    "final_layer.linear.weight",
    "pos_embed",
)


def from_original(
    tensors: Mapping[str, Tensor], head_width: int = 64, size: int = 128, what: str = "this file"
) -> MMDiT:
    """Read the original's tensors, alone or beside an autoencoder and text encoders in one file.

    ``head_width`` counts where no norm of the queries tells it; ``size`` is the side of the usual latents. Raises
    CheckpointError for foreign tensors.
    """
    if any(key.startswith(PREFIX) for key in tensors):
        tensors = {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}
    absent = [name for name in SHAPE_KEYS if name not in tensors]
    if absent:
        raise CheckpointError(f"{what} has no {absent[0]}: it is no original MMDiT")
    proj_in, text, vector, last, positions = (tensors[name].shape for name in SHAPE_KEYS)
    blocks, dual = depth(tensors, "joint_blocks"), sum(key.endswith(".attn2.qkv.weight") for key in tensors)
    if len(proj_in) != 4 or len(positions) != 3 or blocks == 0:
        raise CheckpointError(f"{what} has no blocks, no convolution or no table of positions: it is no original MMDiT")
    width, in_channels, patch, _ = proj_in
    scales = [value for key, value in tensors.items() if key.endswith(".attn.ln_q.weight")]
    head_width = len(scales[0]) if scales else head_width
    if width % head_width:
        raise CheckpointError(f"{what} has a width of {width}, which heads of {head_width} do not divide")
    channels = last[0] // patch**2
    with torch.device("meta"):
        net = MMDiT(
            channels=channels,
            heads=width // head_width,
            depth=blocks,
            text_width=text[1],
            vector_width=vector[1],
            head_width=head_width,
            patch=patch,
            size=size,
            table=math.isqrt(positions[1]),
            normed=bool(scales),
            dual=dual,
            concat_channels=in_channels - channels,
        )
    return assemble(net, original_pairs(net), tensors, what, "pos_embed")


def to_original(net: MMDiT) -> dict[str, Tensor]:
    """The tensors as the original names them. Raises CheckpointError for a network that it cannot express."""
    published(net)
    return to_theirs(original_pairs(net), state_of(net))


def original_pairs(net: MMDiT) -> Iterator[Pair]:
    """The key rules of the original layout for a network of this shape."""
    yield Pair("positions", ("pos_embed",), TABLE)
    yield from patches(net.patch, "x_embedder.proj", "final_layer.linear")
    yield from both("text", "context_embedder")
    for ours, theirs in {"time": "t_embedder", "vector": "y_embedder"}.items():
        yield from both(f"{ours}.first", f"{theirs}.mlp.0")
        yield from both(f"{ours}.second", f"{theirs}.mlp.2")
    yield from both("last_modulator", "final_layer.adaLN_modulation.1")
    for i in range(len(net.blocks) + 1):
        last = i == len(net.blocks)
        block = "last" if last else f"blocks.{i}"
        for ours, theirs in {"image": "x_block", "text": "context_block"}.items():
            stream, stem = f"{block}.{ours}", f"joint_blocks.{i}.{theirs}"
            yield from both(f"{stream}.modulator", f"{stem}.adaLN_modulation.1")
            yield from _projection(f"{stream}.attention", f"{stem}.attn", net.normed)
            if not last or ours == "image":
                yield from both(f"{stream}.project", f"{stem}.attn.proj")
                yield from both(f"{stream}.expand", f"{stem}.mlp.fc1")
                yield from both(f"{stream}.contract", f"{stem}.mlp.fc2")
        if i < net.dual:
            own, stem = f"{block}.image.own", f"joint_blocks.{i}.x_block.attn2"
            yield from _projection(f"{own}.attention", stem, net.normed)
            yield from both(f"{own}.project", f"{stem}.proj")


def _projection(ours: str, theirs: str, normed: bool) -> Iterator[Pair]:
    yield from both(f"{ours}.qkv", f"{theirs}.qkv")
    if normed:
        yield Pair(f"{ours}.scale", (f"{theirs}.ln_q.weight", f"{theirs}.ln_k.weight"), STACKED)
