"""NCSN++ as diffusers publishes it: a ``UNet2DModel`` folder of skip blocks, both ways.

Published VE networks divide their output by sigma, so that it is the score, -eps / sigma: before that it is -eps.
Our network does not divide and predicts +eps (``Epsilon`` under a VE schedule): reading such weights turns the
sign of the last convolutions, which is exact, and writing turns it back: ``theirs(x, s) = -ours(x, s) / s``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import NEGATED, ROWS, Pair, both, read_folder, to_ours, to_theirs, write_folder
from image.nn.fir import FIR
from image.nn.ncsnpp import InputSkip, LogFourier, NCSNpp

CLASS = "UNet2DModel"
RESIDUAL = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
REQUIRED = {
    "in_channels": 3,
    "out_channels": 3,
    "time_embedding_type": "fourier",
    "time_embedding_dim": None,
    "mid_block_type": "UNetMidBlock2D",
    "norm_num_groups": None,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
    "add_attention": True,
    "act_fn": "silu",
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "num_class_embeds": None,
}
DEFAULTS = {"time_embedding_type": "positional", "norm_num_groups": 32, "norm_eps": 1e-5, "attention_head_dim": 8}


def load_diffusers(folder: Path) -> NCSNpp:
    """Read a diffusers folder of skip blocks; the network takes sigma as its time and predicts eps."""
    config, tensors = read_folder(folder, CLASS)
    for key, wanted in REQUIRED.items():
        if (found := config.get(key, DEFAULTS.get(key, wanted))) != wanted:
            raise CheckpointError(f"{folder} has {key} = {found!r}: an NCSN++ has {wanted!r}")
    if not math.isclose(config.get("mid_block_scale_factor", 1.0), math.sqrt(2), rel_tol=1e-6):
        raise CheckpointError(f"{folder} does not divide the sums of its middle by sqrt(2): it is no NCSN++")
    downs, ups, widths = config["down_block_types"], config["up_block_types"], config["block_out_channels"]
    attention = tuple(level for level, kind in enumerate(downs) if kind == "AttnSkipDownBlock2D")
    if (list(downs), list(ups)) != _block_types(len(widths), attention):
        raise CheckpointError(f"{folder} has blocks {downs} and {ups}: an NCSN++ has skip blocks, the same up as down")
    _require_wide_attention(widths, attention)
    with torch.device("meta"):
        net = NCSNpp(
            LogFourier(widths[0]),
            tuple(widths),
            config["layers_per_block"],
            attention,
            FIR,
            progressive_input=InputSkip,
            progressive=True,
            dropout=config.get("dropout", 0.0),
            centre=config.get("center_input_sample", False),
        )
    tensors = {_modern(key): value for key, value in tensors.items()}
    fill(net, to_ours(_diffusers_pairs(net), tensors, str(folder)), folder)
    return net.eval()


def save_diffusers(folder: Path, net: NCSNpp, size: int) -> None:
    """Write a folder that diffusers loads, for images of ``size``.

    Raises CheckpointError for what its class cannot express: it has log-sigma features, FIR and both kinds of skips.
    """
    encoders = list(net.encoders)
    input_skips = [module for module in net.modules() if isinstance(module, InputSkip)]
    output_skips = {key.split(".")[1] for key in net.state_dict() if ".output_skip." in key}
    fits = isinstance(net.features, LogFourier) and net.resampling == FIR and len(output_skips) == len(encoders)
    if not fits or len(input_skips) != len(encoders) - 1 or net.enter.in_channels != 3:
        raise CheckpointError("diffusers' NCSN++ has log-sigma features, FIR, input and output skips and 3 channels")
    _require_wide_attention(net.widths, net.attention)
    downs, ups = _block_types(len(encoders), net.attention)
    config = REQUIRED | {
        "sample_size": size,
        "center_input_sample": net.centre,
        "mid_block_scale_factor": math.sqrt(2),
        "down_block_types": downs,
        "up_block_types": ups,
        "block_out_channels": list(net.widths),
        "layers_per_block": net.depth,
        "dropout": net.dropout,
    }
    write_folder(folder, CLASS, config, to_theirs(_diffusers_pairs(net), net.state_dict()))


def _modern(key: str) -> str:
    """Old checkpoints name the parts of an attention otherwise."""
    return re.sub(
        r"(attentions\.\d+\.)(query|key|value|proj_attn)\.", lambda found: f"{found[1]}{OLD_ATTENTION[found[2]]}.", key
    )


def _block_types(levels: int, attention: tuple[int, ...]) -> tuple[list[str], list[str]]:
    kinds = ["AttnSkip" if level in attention else "Skip" for level in range(levels)]
    return [f"{kind}DownBlock2D" for kind in kinds], [f"{kind}UpBlock2D" for kind in reversed(kinds)]


def _require_wide_attention(widths: Iterable[int], attention: tuple[int, ...]) -> None:
    narrow = [width for level, width in enumerate(widths) if level in attention and width < 128]
    if narrow:
        raise CheckpointError(
            f"attention of width {narrow[0]} has 32 groups in diffusers and {narrow[0] // 4} in NCSN++: "
            "the two agree from width 128 on"
        )


def _diffusers_pairs(net: NCSNpp) -> Iterator[Pair]:
    own = net.state_dict()

    def residual(ours: str, theirs: str) -> Iterator[Pair]:
        for part, name in RESIDUAL.items():
            if f"{ours}.{part}.weight" in own:
                yield from both(f"{ours}.{part}", f"{theirs}.{name}")

    def attention(ours: str, theirs: str) -> Iterator[Pair]:
        if f"{ours}.norm.weight" in own:
            yield from both(f"{ours}.norm", f"{theirs}.group_norm")
            yield from both(f"{ours}.qkv", *[f"{theirs}.to_{letter}" for letter in "qkv"], form=ROWS)
            yield from both(f"{ours}.project", f"{theirs}.to_out.0")

    yield Pair("features.weight", ("time_proj.weight",))
    yield from both("embed1", "time_embedding.linear_1")
    yield from both("embed2", "time_embedding.linear_2")
    yield from both("enter", "conv_in")
    last = len(net.encoders) - 1
    for level in range(last + 1):
        ours, theirs = f"encoders.{level}", f"down_blocks.{level}"
        for i in range(net.depth):
            yield from residual(f"{ours}.blocks.{i}", f"{theirs}.resnets.{i}")
            yield from attention(f"{ours}.attentions.{i}", f"{theirs}.attentions.{i}")
        if level < last:
            yield from residual(f"{ours}.down", f"{theirs}.resnet_down")
            yield from both(f"{ours}.progressive_input.project", f"{theirs}.skip_conv")
    yield from residual("middle.0", "mid_block.resnets.0")
    yield from attention("middle.1", "mid_block.attentions.0")
    yield from residual("middle.2", "mid_block.resnets.1")
    for step in range(last + 1):
        ours, theirs = f"decoders.{step}", f"up_blocks.{step}"
        for i in range(net.depth + 1):
            yield from residual(f"{ours}.blocks.{i}", f"{theirs}.resnets.{i}")
        yield from attention(f"{ours}.attention", f"{theirs}.attentions.0")
        yield from residual(f"{ours}.up", f"{theirs}.resnet_up")
        norm, conv = ("conv_norm_out", "conv_out") if step == last else (f"{theirs}.skip_norm", f"{theirs}.skip_conv")
        yield from both(f"{ours}.output_skip.norm", norm)
        yield from both(f"{ours}.output_skip.conv", conv, form=NEGATED)
