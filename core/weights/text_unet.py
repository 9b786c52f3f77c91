"""diffusers' ``UNet2DConditionModel`` folder, both ways: Stable Diffusion 1 and 2, SDXL and its refiner, LCM, and kin.

A folder says more than the network is: the table of classes that diffusers keeps inside it, the size it was trained at,
and how its conditioner makes sinusoids. All that is a ``UNetExtras``, handed over with the network and written with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.nn.text_unet import TextBlock, TextUNet, UNetEncoder
from core.nn.text_unet_plan import Plan
from core.nn.transformer2d import TextAttention
from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import ROWS, SAME, Form, Pair, both, dtype_of, read_folder, to_ours, to_theirs, write_folder

CLASS = "UNet2DConditionModel"
TABLE = "class_embedding.weight"
REQUIRED: dict[str, Any] = {
    "center_input_sample": False,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "dual_cross_attention": False,
    "class_embed_type": None,
    "num_attention_heads": None,
    "reverse_transformer_layers_per_block": None,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "cross_attention_norm": None,
}
DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 4,
    "out_channels": 4,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "only_cross_attention": False,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 8,
    "use_linear_projection": False,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "num_class_embeds": None,
    "upcast_attention": False,
    "time_cond_proj_dim": None,
    "projection_class_embeddings_input_dim": None,
}
KINDS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
RESIDUAL = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}

# Convolutions of size 1, which are linear layers.
POINTWISE = Form(lambda parts: parts[0].flatten(1), lambda whole, count: [whole[..., None, None]])


@dataclass(frozen=True)
class UNetExtras:
    """The entries of a folder besides its network."""

    table: Tensor | None = None  # (classes, 4 widths[0]): rows of cond.vector, such as the upscaler's levels of noise
    size: int | list[int] | None = None  # of the latents that it was trained on
    sinusoids: int | None = None  # how many the conditioner makes of each number about size and crop (SDXL: 256)
    upcast: bool = False  # attention's scores in float32 (SD2.1), which ours always has


def load_diffusers(folder: Path) -> tuple[TextUNet, UNetExtras]:
    """Read a diffusers folder, in the precision of its file.

    Raises CheckpointError for one that this network cannot express, or that is damaged.
    """
    config, tensors = read_folder(folder, CLASS)
    with torch.device("meta"):
        net = TextUNet(plan_of(config, str(folder))).to(dtype_of(tensors))
    extras = extras_of(config, tensors.pop(TABLE, None), net, str(folder))
    fill(net, to_ours(pairs(net), tensors, str(folder)), folder)
    return net.eval(), extras


def save_diffusers(folder: Path, net: TextUNet, extras: UNetExtras = UNetExtras()) -> None:
    """Write a folder that diffusers loads. Raises CheckpointError for a network that its class cannot express."""
    tensors = to_theirs(pairs(net), net.state_dict())
    if extras.table is not None:
        tensors[TABLE] = extras.table.detach().clone()
    write_folder(folder, CLASS, config_of(net.plan, extras), tensors)


def pairs(net: TextUNet) -> Iterator[Pair]:
    """Our tensors and diffusers', for a network's plan."""
    yield from encoder_pairs(net)
    for i, level in enumerate(net.up):
        yield from level_pairs(net.plan, level.blocks, f"up.{i}", f"up_blocks.{i}")
        if level.resample is not None:
            yield from both(f"up.{i}.resample.conv", f"up_blocks.{i}.upsamplers.0.conv")
    yield from both("norm_out", "conv_norm_out")
    yield from both("conv_out", "conv_out")


def encoder_pairs(net: UNetEncoder) -> Iterator[Pair]:
    """The pairs of the encoder."""
    yield from both("time.0", "time_embedding.linear_1")
    yield from both("time.2", "time_embedding.linear_2")
    if net.guidance is not None:
        yield Pair("guidance.weight", ("time_embedding.cond_proj.weight",))
    if net.vector is not None:
        yield from both("vector.0", "add_embedding.linear_1")
        yield from both("vector.2", "add_embedding.linear_2")
    yield from both("conv_in", "conv_in")
    for i, level in enumerate(net.down):
        yield from level_pairs(net.plan, level.blocks, f"down.{i}", f"down_blocks.{i}")
        if level.resample is not None:
            yield from both(f"down.{i}.resample.conv", f"down_blocks.{i}.downsamplers.0.conv")
    for j, block in enumerate(net.middle):
        places = f"mid_block.resnets.{j}", f"mid_block.attentions.{j}"
        yield from block_pairs(net.plan, block, f"middle.{j}", *places, RESIDUAL)


def level_pairs(plan: Plan, blocks: Iterable[TextBlock], ours: str, theirs: str) -> Iterator[Pair]:
    for j, block in enumerate(blocks):
        places = f"{theirs}.resnets.{j}", f"{theirs}.attentions.{j}"
        yield from block_pairs(plan, block, f"{ours}.blocks.{j}", *places, RESIDUAL)


def block_pairs(
    plan: Plan, block: TextBlock, ours: str, residual: str, transformer: str, parts: Mapping[str, str]
) -> Iterator[Pair]:
    """The pairs of a residual block, whose ``parts`` have foreign names, and of the transformer after it."""
    for mine, name in parts.items():
        if mine != "skip" or block.residual.skip is not None:
            yield from both(f"{ours}.residual.{mine}", f"{residual}.{name}")
    if block.transformer is None:
        return
    mine, form = f"{ours}.transformer", SAME if plan.linear else POINTWISE
    yield from both(f"{mine}.norm", f"{transformer}.norm")
    for name, layer in (("proj_in", "proj_in"), ("proj_out", "proj_out")):
        yield Pair(f"{mine}.{name}.weight", (f"{transformer}.{layer}.weight",), form)
        yield Pair(f"{mine}.{name}.bias", (f"{transformer}.{layer}.bias",))
    for i, part in enumerate(block.transformer.layers):
        crossed = isinstance(part.first, TextAttention)
        yield from layer_pairs(f"{mine}.layers.{i}", f"{transformer}.transformer_blocks.{i}", crossed)


def layer_pairs(ours: str, theirs: str, cross_only: bool) -> Iterator[Pair]:
    """The pairs of a transformer layer, named alike by diffusers and by the original."""
    for norm in ("norm1", "norm2", "norm3"):
        yield from both(f"{ours}.{norm}", f"{theirs}.{norm}")
    for mine, name, crossed in (("first", "attn1", cross_only), ("second", "attn2", True)):
        query, *text = [f"{theirs}.{name}.to_{letter}.weight" for letter in "qkv"]
        if crossed:
            yield Pair(f"{ours}.{mine}.query.weight", (query,))
            yield Pair(f"{ours}.{mine}.text.weight", tuple(text), ROWS)
        else:
            yield Pair(f"{ours}.{mine}.qkv.weight", (query, *text), ROWS)
        yield from both(f"{ours}.{mine}.project", f"{theirs}.{name}.to_out.0")
    yield from both(f"{ours}.expand", f"{theirs}.ff.net.0.proj")
    yield from both(f"{ours}.contract", f"{theirs}.ff.net.2")


def plan_of(config: Mapping[str, Any], what: str) -> Plan:
    """The plan that a configuration describes. Raises CheckpointError for what ours does not have."""
    for key, wanted in REQUIRED.items():
        if config.get(key, wanted) != wanted:
            raise CheckpointError(f"{what} has {key} = {config[key]!r}: a U-Net of this layout has {wanted!r}")
    config = {**DEFAULTS, **config}
    kinds, widths = config["down_block_types"], config["block_out_channels"]
    mirrored = [kind.replace("Up", "Down") for kind in config.get("up_block_types", ())][::-1]
    if not KINDS.keys() >= set(kinds) or mirrored not in ([], list(kinds)):
        raise CheckpointError(f"{what} has blocks {', '.join(kinds)}: this layout reads {', '.join(KINDS)}, mirrored")
    if config["addition_embed_type"] not in (None, "text_time"):
        raise CheckpointError(
            f"{what} adds {config['addition_embed_type']} to its time embedding: this layout does not"
        )
    layers = [_at(config, "transformer_layers_per_block", level, what) for level in range(len(kinds))]
    crossed = [_at(config, "only_cross_attention", level, what) for level in range(len(kinds))]
    return Plan(
        config["in_channels"],
        config["out_channels"],
        tuple(widths),
        tuple(layers[level] if KINDS[kind] else 0 for level, kind in enumerate(kinds)),
        _uniform(config, "cross_attention_dim", what),
        middle_depth=layers[-1],
        blocks=_uniform(config, "layers_per_block", what),
        heads=tuple(_at(config, "attention_head_dim", level, what) for level in range(len(kinds))),
        cross_only=tuple(level for level, crosses in enumerate(crossed) if crosses),
        vector_width=config["projection_class_embeddings_input_dim"] if config["addition_embed_type"] else None,
        guidance_width=config["time_cond_proj_dim"],
        linear=config["use_linear_projection"],
        groups=config["norm_num_groups"],
        epsilon=config["norm_eps"],
        dropout=config["dropout"],
        cos_first=config["flip_sin_to_cos"],
        shift=config["freq_shift"],
    )


def extras_of(config: Mapping[str, Any], table: Tensor | None, net: UNetEncoder, what: str) -> UNetExtras:
    """The extras in a configuration and a table of classes. Raises CheckpointError if they disagree."""
    classes = config.get("num_class_embeds")
    found, wanted = None if table is None else tuple(table.shape), None if classes is None else (classes, net.embedded)
    if found != wanted:
        raise CheckpointError(f"{what} holds a table of classes {found}, but its configuration says {wanted}")
    if table is not None and net.vector is not None:
        raise CheckpointError(f"{what} has both a class and a vector: this layout reads one of them")
    config = {**DEFAULTS, **config}
    return UNetExtras(table, config["sample_size"], config["addition_time_embed_dim"], bool(config["upcast_attention"]))


def config_of(plan: Plan, extras: UNetExtras) -> dict[str, Any]:
    """The configuration of a plan. Raises CheckpointError for one that diffusers' class cannot express."""
    last = plan.depths[-1] or plan.middle_depth
    if plan.dims != 2 or last != plan.middle_depth:
        raise CheckpointError(f"{CLASS} is 2-d, with a middle as deep as the last level: keep our own format")
    if plan.vector_width is not None and extras.sinusoids is None:
        raise CheckpointError(f"{CLASS} makes the sinusoids of sizes and crop itself: say how many (256 in SDXL)")
    if extras.table is not None and (plan.vector_width is not None or extras.table.shape[1] != plan.embedded):
        raise CheckpointError(f"a table of width {extras.table.shape[1]} for a network that adds no such rows")
    uniform = set(plan.depths) <= {0, last}
    heads = [plan.heads_at(level) for level in range(len(plan.widths))]
    kinds = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in plan.depths]
    return {
        "sample_size": extras.size,
        "in_channels": plan.in_channels,
        "out_channels": plan.out_channels,
        "flip_sin_to_cos": plan.cos_first,
        "freq_shift": plan.shift,
        "down_block_types": kinds,
        "up_block_types": [kind.replace("Down", "Up") for kind in kinds[::-1]],
        "only_cross_attention": [level in plan.cross_only for level in range(len(kinds))] if plan.cross_only else False,
        "block_out_channels": list(plan.widths),
        "layers_per_block": plan.blocks,
        "dropout": plan.dropout,
        "norm_num_groups": plan.groups,
        "norm_eps": plan.epsilon,
        "cross_attention_dim": plan.text_width,
        "transformer_layers_per_block": last if uniform else [*(depth or 1 for depth in plan.depths[:-1]), last],
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,
        "use_linear_projection": plan.linear,
        "addition_embed_type": None if plan.vector_width is None else "text_time",
        "addition_time_embed_dim": extras.sinusoids,
        "projection_class_embeddings_input_dim": plan.vector_width,
        "num_class_embeds": None if extras.table is None else len(extras.table),
        "upcast_attention": extras.upcast,
        "time_cond_proj_dim": plan.guidance_width,
    }


def _at(config: Mapping[str, Any], key: str, level: int, what: str) -> Any:
    """A level's entry of a list, or the one value for all levels."""
    value = config[key]
    if not isinstance(value, list | tuple):
        return value
    if len(value) != len(config["down_block_types"]) or not all(isinstance(entry, int) for entry in value):
        raise CheckpointError(f"{what} has {key} = {value}: this layout reads one number, or one a level")
    return value[level]


def _uniform(config: Mapping[str, Any], key: str, what: str) -> Any:
    """The one value that all levels have."""
    found = {_at(config, key, level, what) for level in range(len(config["down_block_types"]))}
    if len(found) > 1:
        raise CheckpointError(f"{what} has {key} = {config[key]}: this layout reads the same at every level")
    return found.pop()
