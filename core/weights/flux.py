"""Flux's diffusers layout: a ``FluxTransformer2DModel`` folder, both ways.

diffusers keeps queries, keys and values apart and says (scale, shift) of the last norm, where the original and we say
(shift, scale). Its network takes packed tokens, which its pipelines cut 2 x 2 from the latents; ours cuts them itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.nn.flux import Flux
from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import ROWS, Form, Pair, both, dtype_of, read_folder, to_ours, to_theirs, write_folder

CLASS = "FluxTransformer2DModel"
PATCH = 2  # of the pipelines that pack latents
CELL = PATCH**2
STACKED = Form(lambda parts: torch.stack(parts), lambda whole, count: whole.unbind(0))
SWAPPED = Form(lambda parts: torch.cat(parts[0].chunk(2)[::-1]), lambda whole, count: [torch.cat(whole.chunk(2)[::-1])])


def load_diffusers(folder: Path) -> Flux:
    """Read a diffusers folder, in the precision of its file.

    Raises CheckpointError where it holds another model than a Flux of 2-D latents.
    """
    config, tensors = read_folder(folder, CLASS)
    net = make(config, str(folder)).to(dtype_of(tensors))
    depths = len(net.doubles), len(net.singles)
    pairs = diffusers_pairs(*depths, net.vector is not None, net.guidance is not None)
    fill(net, to_ours(pairs, tensors, str(folder)), folder)
    return net.eval()


def save_diffusers(folder: Path, net: Flux) -> None:
    """Write a folder that diffusers loads. Raises CheckpointError for a network that its class cannot express."""
    config = config_of(net)
    state = {name: value.detach() for name, value in net.state_dict().items()}
    pairs = diffusers_pairs(len(net.doubles), len(net.singles), True, net.guidance is not None)
    write_folder(folder, CLASS, config, to_theirs(pairs, state))


def config_of(net: Flux) -> dict[str, Any]:
    """diffusers' configuration of a network. Raises CheckpointError for one that its class cannot express."""
    published(net)
    return {
        "patch_size": 1,
        "in_channels": net.proj_in.in_features,
        "out_channels": net.readout.out_features,
        "num_layers": len(net.doubles),
        "num_single_layers": len(net.singles),
        "attention_head_dim": sum(net.axes),
        "num_attention_heads": net.heads,
        "joint_attention_dim": net.text.in_features,
        "pooled_projection_dim": net.get_submodule("vector.first").in_features,
        "guidance_embeds": net.guidance is not None,
        "axes_dims_rope": list(net.axes),
    }


def make(config: Mapping[str, Any], what: str) -> Flux:
    """The network that a diffusers configuration describes, without weights."""
    axes = tuple(config.get("axes_dims_rope") or (16, 56, 56))
    packed = config.get("in_channels", 64)
    out_channels = config.get("out_channels") or packed
    if config.get("patch_size", 1) != 1 or len(axes) != 3 or packed % CELL or out_channels % CELL:
        raise CheckpointError(f"{what} does not take latents packed 2 x 2: this layout reads the networks of Flux.1")
    if sum(axes) != config.get("attention_head_dim", 128):
        raise CheckpointError(f"{what} has rotary axes {axes} that do not fill its heads: the configuration is damaged")
    with torch.device("meta"):
        return Flux(
            channels=out_channels // CELL,
            heads=config.get("num_attention_heads", 24),
            doubles=config.get("num_layers", 19),
            singles=config.get("num_single_layers", 38),
            text_width=config.get("joint_attention_dim", 4096),
            vector_width=config.get("pooled_projection_dim", 768),
            axes=axes,
            patch=PATCH,
            guided=config.get("guidance_embeds", False),
            concat_channels=(packed - out_channels) // CELL,
        )


def published(net: Flux) -> None:
    """Raises CheckpointError for a network of ours that published layouts have no words for."""
    if net.patch != PATCH or len(net.axes) != 3 or net.vector is None:
        raise CheckpointError(
            "published Flux layouts hold networks of 2-D latents in patches of 2 that hear a pooled text: "
            "save this one in our own format"
        )


def diffusers_pairs(doubles: int, singles: int, vector: bool = True, guided: bool = True) -> Iterator[Pair]:
    """The key rules of diffusers' layout."""
    yield from both("proj_in", "x_embedder")
    yield from both("text", "context_embedder")
    embedders = {"time": "timestep", "vector": "text" if vector else "", "guidance": "guidance" if guided else ""}
    for ours, theirs in embedders.items():
        if theirs:
            yield from both(f"{ours}.first", f"time_text_embed.{theirs}_embedder.linear_1")
            yield from both(f"{ours}.second", f"time_text_embed.{theirs}_embedder.linear_2")
    for i in range(doubles):
        theirs = f"transformer_blocks.{i}"
        yield from _stream(f"doubles.{i}.image", theirs, "norm1", "to_{}", "norm_{}", "to_out.0", "ff")
        names = ("norm1_context", "add_{}_proj", "norm_added_{}", "to_add_out", "ff_context")
        yield from _stream(f"doubles.{i}.text", theirs, *names)
    for i in range(singles):
        ours, theirs = f"singles.{i}", f"single_transformer_blocks.{i}"
        yield from both(f"{ours}.modulator", f"{theirs}.norm.linear")
        yield from _projection(f"{ours}.attention", f"{theirs}.attn", "to_{}", "norm_{}")
        yield from both(f"{ours}.expand", f"{theirs}.proj_mlp")
        yield from both(f"{ours}.proj_out", f"{theirs}.proj_out")
    yield from both("last_modulator", "norm_out.linear", form=SWAPPED)
    yield from both("readout", "proj_out")


def _stream(ours: str, theirs: str, norm: str, row: str, scale: str, out: str, mlp: str) -> Iterator[Pair]:
    yield from both(f"{ours}.modulator", f"{theirs}.{norm}.linear")
    yield from _projection(f"{ours}.attention", f"{theirs}.attn", row, scale)
    yield from both(f"{ours}.project", f"{theirs}.attn.{out}")
    yield from both(f"{ours}.expand", f"{theirs}.{mlp}.net.0.proj")
    yield from both(f"{ours}.contract", f"{theirs}.{mlp}.net.2")


def _projection(ours: str, theirs: str, row: str, scale: str) -> Iterator[Pair]:
    yield from both(f"{ours}.qkv", *[f"{theirs}.{row.format(letter)}" for letter in "qkv"], form=ROWS)
    yield Pair(f"{ours}.scale", tuple(f"{theirs}.{scale.format(letter)}.weight" for letter in "qk"), STACKED)


def depth(tensors: Mapping[str, Tensor], stem: str) -> int:
    """How many blocks ``stem.0``, ``stem.1``, ... the tensors have."""
    return len({match.group() for key in tensors if (match := re.match(rf"{stem}\.\d+\.", key))})
