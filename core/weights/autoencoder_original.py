"""The original keys of KL autoencoders, both ways: CompVis' and Stability's (after ``first_stage_model.``), BFL's.

They count the levels of the decoder from the finest, and keep attention's matrices as convolutions of size 1. What an
original file holds besides (the losses of training, a discriminator) is left aside by ``network_part``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from core.autoencoder import KLAutoencoder, Plan, VQAutoencoder
from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import Form, Pair, both, to_ours, to_theirs

ROWS_1X1 = Form(
    lambda parts: torch.cat(parts).flatten(1) if parts[0].ndim > 1 else torch.cat(parts),
    lambda whole, count: [
        part[..., None, None] if part.ndim == 2 else part for part in (whole.chunk(count) if count > 1 else [whole])
    ],
)


def network_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the network itself."""
    return {name: value for name, value in tensors.items() if not name.startswith(("loss.", "model_ema."))}


def from_original(tensors: Mapping[str, Tensor], what: str = "this file", groups: int = 32) -> KLAutoencoder:
    """Read the original's tensors; the architecture follows from their shapes. Raises CheckpointError otherwise."""
    with torch.device("meta"):
        net = KLAutoencoder(plan_of(tensors, what, groups))
    fill(net, to_ours(pairs(net), network_part(tensors), what), Path(what))
    return net.eval()


def to_original(net: KLAutoencoder | VQAutoencoder) -> dict[str, Tensor]:
    """The tensors as the original names them."""
    if net.plan.dims != 2:
        raise CheckpointError(f"the original layout is 2-d, this autoencoder has {net.plan.dims} axes")
    return to_theirs(pairs(net), net.state_dict())


def vq_from_original(tensors: Mapping[str, Tensor], what: str = "this file", groups: int = 32) -> VQAutoencoder:
    """Read the original's VQ tensors (``quantize.embedding.weight`` is the table)."""
    table = tensors.get("quantize.embedding.weight")
    if table is None:
        raise CheckpointError(f"{what} has no quantize.embedding.weight: it is no VQ autoencoder")
    plan = plan_of(tensors, what, groups, embedded=table.shape[1])
    with torch.device("meta"):
        net = VQAutoencoder(plan, len(table))
    fill(net, to_ours(pairs(net), network_part(tensors), what), Path(what))
    return net.eval()


def plan_of(tensors: Mapping[str, Tensor], what: str, groups: int = 32, embedded: int | None = None) -> Plan:
    """The sizes, from names and shapes. Raises CheckpointError when these are not of an autoencoder."""
    first, code = tensors.get("encoder.conv_in.weight"), tensors.get("decoder.conv_in.weight")
    if first is None or code is None:
        raise CheckpointError(f"{what} has no encoder.conv_in and decoder.conv_in: it is no original autoencoder")
    numbers = [m.groups() for name in tensors if (m := re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", name))]
    if not numbers:
        raise CheckpointError(f"{what} has no encoder.down blocks: it is no original autoencoder")
    levels, blocks = (1 + max(int(pair[place]) for pair in numbers) for place in (0, 1))
    widths = tuple(tensors[f"encoder.down.{level}.block.0.conv2.weight"].shape[0] for level in range(levels))
    return Plan(
        first.shape[1],
        code.shape[1],
        widths,
        blocks,
        groups=groups,
        middle_attention="encoder.mid.attn_1.q.weight" in tensors,
        quant="quant_conv.weight" in tensors,
        embedded=embedded,
    )


def pairs(net: KLAutoencoder | VQAutoencoder) -> Iterator[Pair]:
    """Our tensors and the original's."""
    names, last = set(net.state_dict()), len(net.plan.widths) - 1

    def residual(ours: str, theirs: str) -> Iterator[Pair]:
        for part in ("norm1", "conv1", "norm2", "conv2"):
            yield from both(f"{ours}.{part}", f"{theirs}.{part}")
        if f"{ours}.skip.weight" in names:
            yield from both(f"{ours}.skip", f"{theirs}.nin_shortcut")

    for half, direction, sampler in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        for part in ("conv_in", "norm_out", "conv_out"):
            yield from both(f"{half}.{part}", f"{half}.{part}")
        yield from residual(f"{half}.middle.first", f"{half}.mid.block_1")
        yield from residual(f"{half}.middle.second", f"{half}.mid.block_2")
        if net.plan.middle_attention:
            ours, place = f"{half}.middle.attention", f"{half}.mid.attn_1"
            yield from both(f"{ours}.norm", f"{place}.norm")
            yield from both(f"{ours}.qkv", *[f"{place}.{letter}" for letter in "qkv"], form=ROWS_1X1)
            yield from both(f"{ours}.project", f"{place}.proj_out", form=ROWS_1X1)
        for level in range(last + 1):
            place = f"{half}.{direction}.{level if direction == 'down' else last - level}"
            for block in range(net.plan.blocks + (direction == "up")):
                yield from residual(f"{half}.{direction}.{level}.blocks.{block}", f"{place}.block.{block}")
            if level < last:
                yield from both(f"{half}.{direction}.{level}.resample.conv", f"{place}.{sampler}.conv")
    if "quant.weight" in names:
        yield from both("quant", "quant_conv")
        yield from both("post_quant", "post_quant_conv")
    if isinstance(net, VQAutoencoder):
        yield Pair("codebook.table.weight", ("quantize.embedding.weight",))
