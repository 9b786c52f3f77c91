"""The keys of the cross-attention U-Net as CompVis and Stability published it, both ways: flat lists of blocks.

``input_blocks``, ``middle_block`` and ``output_blocks`` are numbered in the order in which they are run, steps between
grids among them. A file says nothing about its network, so the plan is read off its names and shapes; what shapes do
not tell is known of the families: 8 heads where projections are convolutions (SD1) or a table of noise levels is inside
(x4-upscaler), heads of 64 in all others (SD2, SDXL).

Names are without the ``model.diffusion_model.`` that stands before them in a file of a whole system.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from core.nn.text_unet import TextUNet
from core.nn.text_unet_plan import Plan
from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import Pair, both, dtype_of, to_ours, to_theirs
from core.weights.text_unet import block_pairs

TABLE = "label_emb.weight"
RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}


def from_original(
    tensors: Mapping[str, Tensor], what: str = "this file", heads: int | tuple[int, ...] | None = None
) -> tuple[TextUNet, Tensor | None]:
    """The network that a file's tensors make, in their precision, and its table of classes or None.

    ``heads`` is for networks of none of the families. Raises CheckpointError for tensors of anything else.
    """
    tensors = dict(tensors)
    plan = plan_of(tensors, what, heads)
    table = tensors.pop(TABLE, None)
    with torch.device("meta"):
        net = TextUNet(plan).to(dtype_of(tensors))
    fill(net, to_ours(pairs(net), tensors, what), Path(what))
    return net.eval(), table


def to_original(net: TextUNet, table: Tensor | None = None) -> dict[str, Tensor]:
    """The tensors of a network, and of its table of classes, as the original names them."""
    tensors = to_theirs(pairs(net), net.state_dict())
    return tensors if table is None else tensors | {TABLE: table.detach().clone()}


def plan_of(tensors: Mapping[str, Tensor], what: str, heads: int | tuple[int, ...] | None = None) -> Plan:
    """The plan that names and shapes tell. Raises CheckpointError where they are not those of such a network."""
    try:
        return _plan(tensors, what, heads)
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{what} is no U-Net of Stable Diffusion or SDXL as first published ({error})") from error


def _plan(tensors: Mapping[str, Tensor], what: str, heads: int | tuple[int, ...] | None) -> Plan:
    levels = _levels(tensors)
    if len({len(places) for places in levels}) > 1:
        raise CheckpointError(f"{what} has levels of {[len(places) for places in levels]} blocks: ours are all alike")
    middle = "middle_block.1"
    first = tensors["input_blocks.0.0.weight"]
    depths = tuple(_depth(tensors, f"{places[0]}.1") for places in levels)
    families = {"heads": 8} if tensors[f"{middle}.proj_in.weight"].ndim > 2 or TABLE in tensors else {"head_width": 64}
    return Plan(
        first.shape[1],
        tensors["out.2.weight"].shape[0],
        tuple(tensors[f"{places[0]}.0.out_layers.3.weight"].shape[0] for places in levels),
        depths,
        tensors[f"{middle}.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        middle_depth=_depth(tensors, middle),
        blocks=len(levels[0]),
        heads=families.get("heads", 8) if heads is None else heads,
        head_width=families.get("head_width") if heads is None else None,
        cross_only=tuple(level for level, places in enumerate(levels) if _crosses(tensors, f"{places[0]}.1")),
        vector_width=tensors["label_emb.0.0.weight"].shape[1] if "label_emb.0.0.weight" in tensors else None,
        linear=tensors[f"{middle}.proj_in.weight"].ndim == 2,
        dims=first.ndim - 2,
    )


def _levels(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of the residual blocks of each level on the way down."""
    levels: list[list[str]] = [[]]
    place = "input_blocks.1"
    while f"{place}.0.in_layers.0.weight" in tensors or f"{place}.0.op.weight" in tensors:
        if f"{place}.0.op.weight" in tensors:
            levels.append([])
        else:
            levels[-1].append(place)
        place = f"input_blocks.{int(place.removeprefix('input_blocks.')) + 1}"
    return levels


def _depth(tensors: Mapping[str, Tensor], transformer: str) -> int:
    """How many layers a transformer has; 0 where there is none."""
    depth = 0
    while f"{transformer}.transformer_blocks.{depth}.norm1.weight" in tensors:
        depth += 1
    return depth


def _crosses(tensors: Mapping[str, Tensor], transformer: str) -> bool:
    """Whether the first attention reads keys from the text: they are then as wide as the text, not as the places."""
    keys = tensors.get(f"{transformer}.transformer_blocks.0.attn1.to_k.weight")
    return keys is not None and keys.shape[0] != keys.shape[1]


def pairs(net: TextUNet) -> Iterator[Pair]:
    """Our tensors and the original's. Raises CheckpointError for a network with what the original never had."""
    if net.guidance is not None:
        raise CheckpointError("the original layout has no place for LCM's guidance: save a diffusers folder")
    yield from both("time.0", "time_embed.0")
    yield from both("time.2", "time_embed.2")
    if net.vector is not None:
        yield from both("vector.0", "label_emb.0.0")
        yield from both("vector.2", "label_emb.0.2")
    yield from both("conv_in", "input_blocks.0.0")
    place = 1
    for i, level in enumerate(net.down):
        for j, block in enumerate(level.blocks):
            places = f"input_blocks.{place}.0", f"input_blocks.{place}.1"
            yield from block_pairs(net.plan, block, f"down.{i}.blocks.{j}", *places, RESIDUAL)
            place += 1
        if level.resample is not None:
            yield from both(f"down.{i}.resample.conv", f"input_blocks.{place}.0.op")
            place += 1
    yield from block_pairs(net.plan, net.middle[0], "middle.0", "middle_block.0", "middle_block.1", RESIDUAL)
    last = f"middle_block.{2 if net.plan.middle_depth else 1}"
    yield from block_pairs(net.plan, net.middle[1], "middle.1", last, last, RESIDUAL)
    place = 0
    for i, level in enumerate(net.up):
        for j, block in enumerate(level.blocks):
            places = f"output_blocks.{place}.0", f"output_blocks.{place}.1"
            yield from block_pairs(net.plan, block, f"up.{i}.blocks.{j}", *places, RESIDUAL)
            place += 1
        if level.resample is not None:
            position = 1 if level.blocks[-1].transformer is None else 2
            yield from both(f"up.{i}.resample.conv", f"output_blocks.{place - 1}.{position}.conv")
    yield from both("norm_out", "out.0")
    yield from both("conv_out", "out.2")
