"""diffusers' ``UNet2DModel`` folder, both ways: the networks of DDPM, ADM, consistency models and their kin.

diffusers keeps a class table in the network; here it belongs to the conditioner, whose table has one more row, for no
class. Where these networks have no class they add nothing, so that row is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.nn.unet import UNet
from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import ROWS, Pair, both, read_folder, to_ours, to_theirs, write_folder

CLASS = "UNet2DModel"
TABLE = "class_embedding.weight"
REQUIRED: dict[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "class_embed_type": None,
    "mid_block_type": "UNetMidBlock2D",
    "time_embedding_dim": None,
}
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "dropout": 0.0,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "attention_head_dim": 8,
    "resnet_time_scale_shift": "default",
    "downsample_type": "conv",
    "downsample_padding": 1,
    "add_attention": True,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}


def load_diffusers(folder: Path) -> tuple[UNet, Tensor | None]:
    """Read a diffusers folder: the network, and its table (classes + 1, 4 width) or None."""
    config, tensors = read_folder(folder, CLASS)
    for key, wanted in REQUIRED.items():
        if config.get(key, wanted) != wanted:
            raise CheckpointError(f"{folder} has {key} = {config[key]!r}: a U-Net of this layout has {wanted!r}")
    with torch.device("meta"):
        net = _network(DEFAULTS | config, str(folder))
    tensors = {modern(key): value for key, value in tensors.items()}
    table, classes = tensors.pop(TABLE, None), config.get("num_class_embeds")
    found, wanted = None if table is None else tuple(table.shape), None if classes is None else (classes, net.embedded)
    if found != wanted:
        raise CheckpointError(f"{folder} holds a table of classes {found}, but its configuration says {wanted}")
    fill(net, to_ours(pairs(net), tensors, str(folder)), folder)
    return net.eval(), None if table is None else torch.cat([table, torch.zeros_like(table[:1])])


def save_diffusers(folder: Path, net: UNet, table: Tensor | None = None, size: int | None = None) -> None:
    """Write a folder that diffusers loads; ``table`` (classes + 1, 4 width) is the conditioner's.

    Raises CheckpointError for a network that its class cannot express.
    """
    if net.style.dims != 2 or net.width != net.widths[0]:
        raise CheckpointError("UNet2DModel is 2-d, with time features as wide as its first level: keep our own format")
    tensors = to_theirs(pairs(net), net.state_dict())
    if table is not None:
        if table.shape[1] != net.embedded:
            raise CheckpointError(f"a table of width {table.shape[1]} for a network that adds {net.embedded}")
        if bool(table[-1].any()):
            raise CheckpointError("UNet2DModel has no row for 'no class', but this table's is not zero")
        tensors[TABLE] = table[:-1].detach().clone()
    write_folder(folder, CLASS, _config(net, table, size), tensors)


def pairs(net: UNet) -> Iterator[Pair]:
    """Our tensors and diffusers', for a network's shape."""
    yield from both("time.0", "time_embedding.linear_1")
    yield from both("time.2", "time_embedding.linear_2")
    yield from both("conv_in", "conv_in")
    yield from both("norm_out", "conv_norm_out")
    yield from both("conv_out", "conv_out")
    names = set(net.state_dict())

    def residual(ours: str, theirs: str) -> Iterator[Pair]:
        parts = {"norm1": "norm1", "conv1": "conv1", "time": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}
        for mine, name in parts.items():
            yield from both(f"{ours}.{mine}", f"{theirs}.{name}")
        if f"{ours}.skip.weight" in names:
            yield from both(f"{ours}.skip", f"{theirs}.conv_shortcut")

    def block(ours: str, theirs: str, index: int) -> Iterator[Pair]:
        yield from residual(f"{ours}.residual", f"{theirs}.resnets.{index}")
        if f"{ours}.attention.norm.weight" in names:
            place = f"{theirs}.attentions.{0 if ours.startswith('middle') else index}"
            yield from both(f"{ours}.attention.norm", f"{place}.group_norm")
            yield from both(f"{ours}.attention.qkv", *[f"{place}.to_{letter}" for letter in "qkv"], form=ROWS)
            yield from both(f"{ours}.attention.project", f"{place}.to_out.0")

    yield from block("middle.first", "mid_block", 0)
    yield from block("middle.second", "mid_block", 1)
    for direction, levels, sampler in (("down", net.down, "downsamplers"), ("up", net.up, "upsamplers")):
        for i, level in enumerate(levels):
            for j in range(net.blocks + (direction == "up")):
                yield from block(f"{direction}.{i}.blocks.{j}", f"{direction}_blocks.{i}", j)
            if level.resample is None:
                continue
            ours, theirs = f"{direction}.{i}.resample", f"{direction}_blocks.{i}.{sampler}.0"
            yield from residual(ours, theirs) if net.biggan else both(f"{ours}.conv", f"{theirs}.conv")


def _network(config: Mapping[str, Any], what: str) -> UNet:
    """The network that a configuration describes. Raises CheckpointError for blocks that ours does not have."""
    widths, down = config["block_out_channels"], config["down_block_types"]
    known = {
        "DownBlock2D": (False, False),
        "AttnDownBlock2D": (True, config["downsample_type"] == "resnet"),
        "ResnetDownsampleBlock2D": (False, True),
    }
    if any(name not in known for name in down):
        raise CheckpointError(f"{what} has blocks {down}: this layout reads {', '.join(known)}")
    halving = {known[name][1] for name in down[:-1]}
    mirrored = [name.replace("Up", "Down") for name in config["up_block_types"]]
    if len(halving) > 1 or mirrored[::-1] != list(down):
        raise CheckpointError(f"{what} mixes kinds of blocks: this layout reads uniform ones")
    groups = config["norm_num_groups"]
    scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
    middle = config["add_attention"]
    middle_groups = config["attn_norm_num_groups"] or (None if scale_shift else groups)
    if middle and middle_groups != groups:
        raise CheckpointError(f"{what} normalises its middle attention unlike its blocks")
    return UNet(
        config["in_channels"],
        config["out_channels"],
        widths[0],
        [width / widths[0] for width in widths],
        config["layers_per_block"],
        [level for level, name in enumerate(down) if known[name][0]],
        dropout=config["dropout"],
        groups=groups,
        epsilon=config["norm_eps"],
        head_width=config["attention_head_dim"],
        scale_shift=scale_shift,
        biggan=halving == {True},
        asymmetric=config["downsample_padding"] == 0,
        middle_attention=middle,
        cos_first=config["flip_sin_to_cos"],
        shift=config["freq_shift"],
    )


def _config(net: UNet, table: Tensor | None, size: int | None) -> dict[str, Any]:
    def kinds(direction: str) -> list[str]:
        plain = f"Resnet{direction}sampleBlock2D" if net.biggan else f"{direction}Block2D"
        return [f"Attn{direction}Block2D" if level in net.attention else plain for level in range(net.levels)]

    style = net.style
    sampling = "resnet" if net.biggan else "conv"
    return {
        "sample_size": size,
        "in_channels": net.in_channels,
        "out_channels": net.out_channels,
        "block_out_channels": net.widths,
        "layers_per_block": net.blocks,
        "down_block_types": kinds("Down"),
        "up_block_types": kinds("Up")[::-1],
        "dropout": style.dropout,
        "norm_num_groups": style.groups,
        "attn_norm_num_groups": style.groups if style.scale_shift else None,
        "norm_eps": style.epsilon,
        "attention_head_dim": _head_width(net),
        "resnet_time_scale_shift": "scale_shift" if style.scale_shift else "default",
        "downsample_type": sampling,
        "upsample_type": sampling,
        "downsample_padding": 0 if net.asymmetric else 1,
        "add_attention": net.middle_attention,
        "flip_sin_to_cos": net.cos_first,
        "freq_shift": net.shift,
        "num_class_embeds": None if table is None else len(table) - 1,
    }


def _head_width(net: UNet) -> int | None:
    """The one width that all heads have; None where all attention has a single head."""
    if net.style.head_width is not None or net.style.heads == 1:
        return net.style.head_width
    levels = {*net.attention, net.levels - 1} if net.middle_attention else set(net.attention)
    found = {net.widths[level] // net.style.heads for level in levels}
    if len(found) > 1:
        raise CheckpointError("UNet2DModel has heads of one width, this network's differ by level: keep our own format")
    return found.pop() if found else None


def modern(key: str) -> str:
    """Attention's names before diffusers 0.15, as its names since."""
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        for part in ("weight", "bias"):
            if key.endswith(f".{old}.{part}"):
                return key.removesuffix(f"{old}.{part}") + f"{new}.{part}"
    return key
