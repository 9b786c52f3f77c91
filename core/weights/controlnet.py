"""diffusers' ``ControlNetModel`` folder, both ways: ControlNets of Stable Diffusion 1, 2 and SDXL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from core.nn.controlnet import HINT_WIDTHS, ControlNet
from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import Pair, both, dtype_of, read_folder, to_ours, to_theirs, write_folder
from core.weights.text_unet import TABLE, UNetExtras, config_of, encoder_pairs, extras_of, plan_of

CLASS = "ControlNetModel"
REQUIRED: dict[str, Any] = {"controlnet_conditioning_channel_order": "rgb", "global_pool_conditions": False}
WITHOUT = ("sample_size", "out_channels", "up_block_types", "dropout", "time_cond_proj_dim")  # of a U-Net's settings


def load_diffusers(folder: Path) -> tuple[ControlNet, UNetExtras]:
    """Read a diffusers folder, in the precision of its file.

    Raises CheckpointError for one that this network cannot express, or that is damaged.
    """
    config, tensors = read_folder(folder, CLASS)
    for key, wanted in REQUIRED.items():
        if config.get(key, wanted) != wanted:
            raise CheckpointError(f"{folder} has {key} = {config[key]!r}: a ControlNet of this layout has {wanted!r}")
    channels = config.get("conditioning_channels", 3)
    widths = config.get("conditioning_embedding_out_channels", HINT_WIDTHS)
    with torch.device("meta"):
        net = ControlNet(plan_of(config, str(folder)), channels, widths).to(dtype_of(tensors))
    extras = extras_of(config, tensors.pop(TABLE, None), net, str(folder))
    fill(net, to_ours(pairs(net), tensors, str(folder)), folder)
    return net.eval(), extras


def save_diffusers(folder: Path, net: ControlNet, extras: UNetExtras = UNetExtras()) -> None:
    """Write a folder that diffusers loads. Raises CheckpointError for a network that its class cannot express."""
    if net.guidance is not None:
        raise CheckpointError(f"{CLASS} has no guidance embedding; save it as a Langevin checkpoint")
    tensors = to_theirs(pairs(net), net.state_dict())
    if extras.table is not None:
        tensors[TABLE] = extras.table.detach().clone()
    config = {key: value for key, value in config_of(net.plan, extras).items() if key not in WITHOUT}
    config |= REQUIRED | {
        "conditioning_channels": net.channels,
        "conditioning_embedding_out_channels": list(net.hint_widths),
    }
    write_folder(folder, CLASS, config, tensors)


def pairs(net: ControlNet) -> Iterator[Pair]:
    """Our tensors and diffusers', for a network's plan."""
    yield from encoder_pairs(net)
    yield from both("hint.conv_in", "controlnet_cond_embedding.conv_in")
    for i in range(len(net.hint.steps)):
        yield from both(f"hint.steps.{i}", f"controlnet_cond_embedding.blocks.{i}")
    yield from both("hint.conv_out", "controlnet_cond_embedding.conv_out")
    last = len(net.outlets) - 1
    for i in range(last):
        yield from both(f"outlets.{i}", f"controlnet_down_blocks.{i}")
    yield from both(f"outlets.{last}", "controlnet_mid_block")
