"""MMDiT's diffusers layout: a ``SD3Transformer2DModel`` folder, both ways.

diffusers keeps queries, keys and values apart, and says (scale, shift) of the last norms of image and text, where the
original and we say (shift, scale). Both cut patches by a convolution and read out (row, column, channel), where we have
linear layers of (channel, row, column).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.nn.mmdit import MMDiT
from core.weights.checkpoint import CheckpointError, fill
from core.weights.flux import STACKED, SWAPPED
from core.weights.pairs import ROWS, SAME, Form, Pair, both, dtype_of, read_folder, to_ours, to_theirs, write_folder

CLASS = "SD3Transformer2DModel"
TABLE = Form(
    lambda parts: parts[0].view(math.isqrt(parts[0].shape[1]), -1, parts[0].shape[2]),
    lambda whole, count: [whole.flatten(0, 1)[None]],
)


def load_diffusers(folder: Path) -> MMDiT:
    """Read a diffusers folder. Raises CheckpointError where it holds another model than an MMDiT."""
    config, tensors = read_folder(folder, CLASS)
    net = make(config, str(folder))
    return assemble(net, diffusers_pairs(net), tensors, str(folder), "pos_embed.pos_embed")


def save_diffusers(folder: Path, net: MMDiT) -> None:
    """Write a folder that diffusers loads. Raises CheckpointError for a network that its class cannot express."""
    write_folder(folder, CLASS, config_of(net), to_theirs(diffusers_pairs(net), state_of(net)))


def config_of(net: MMDiT) -> dict[str, Any]:
    """diffusers' configuration of a network. Raises CheckpointError for one that its class cannot express."""
    published(net)
    return {
        "sample_size": net.size,
        "patch_size": net.patch,
        "in_channels": net.proj_in.in_features // net.patch**2,
        "out_channels": net.channels,
        "num_layers": len(net.blocks) + 1,
        "attention_head_dim": net.width // net.heads,
        "num_attention_heads": net.heads,
        "joint_attention_dim": net.text.in_features,
        "caption_projection_dim": net.width,
        "pooled_projection_dim": net.get_submodule("vector.first").in_features,
        "pos_embed_max_size": net.table,
        "dual_attention_layers": list(range(net.dual)),
        "qk_norm": "rms_norm" if net.normed else None,
    }


def make(config: Mapping[str, Any], what: str) -> MMDiT:
    """The network that a diffusers configuration describes, without weights."""
    heads, head_width = config.get("num_attention_heads", 18), config.get("attention_head_dim", 64)
    in_channels, channels = config.get("in_channels", 16), config.get("out_channels") or config.get("in_channels", 16)
    dual, norms = list(config.get("dual_attention_layers") or ()), config.get("qk_norm")
    if config.get("caption_projection_dim", 1152) != heads * head_width or channels > in_channels:
        raise CheckpointError(f"{what} has text of another width than its image's, or more channels out than in")
    if dual != list(range(len(dual))) or norms not in (None, "rms_norm"):
        raise CheckpointError(
            f"{what} has dual attention in blocks {dual} and queries normalised by {norms!r}: this layout reads dual "
            f"attention in the first blocks, and RMS norms or none"
        )
    with torch.device("meta"):
        return MMDiT(
            channels=channels,
            heads=heads,
            depth=config.get("num_layers", 18),
            text_width=config.get("joint_attention_dim", 4096),
            vector_width=config.get("pooled_projection_dim", 2048),
            head_width=head_width,
            patch=config.get("patch_size", 2),
            size=config.get("sample_size", 128),
            table=config.get("pos_embed_max_size", 96),
            normed=norms is not None,
            dual=len(dual),
            concat_channels=in_channels - channels,
        )


def assemble(net: MMDiT, pairs: Iterator[Pair], tensors: Mapping[str, Tensor], what: str, table: str) -> MMDiT:
    """Fill a network with foreign tensors, in their precision; ``table`` is the name of their positions."""
    positions = tensors.get(table)
    if positions is not None and (positions.ndim != 3 or math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]):
        raise CheckpointError(
            f"{what} has positions of shape {tuple(positions.shape)}, which are not those of a square"
        )
    fill(net.to(dtype_of(tensors)), to_ours(pairs, tensors, what), Path(what))
    return net.eval()


def published(net: MMDiT) -> None:
    """Raises CheckpointError for a network of ours that published layouts have no words for."""
    if net.vector is None:
        raise CheckpointError("published MMDiT layouts hear a pooled text: save this network in our own format")


def state_of(net: MMDiT) -> dict[str, Tensor]:
    """The network's tensors, without their gradients."""
    return {name: value.detach() for name, value in net.state_dict().items()}


def diffusers_pairs(net: MMDiT) -> Iterator[Pair]:
    """The key rules of diffusers' layout for a network of this shape."""
    yield Pair("positions", ("pos_embed.pos_embed",), TABLE)
    yield from patches(net.patch, "pos_embed.proj", "proj_out")
    yield from both("text", "context_embedder")
    for ours, theirs in {"time": "timestep", "vector": "text"}.items():
        yield from both(f"{ours}.first", f"time_text_embed.{theirs}_embedder.linear_1")
        yield from both(f"{ours}.second", f"time_text_embed.{theirs}_embedder.linear_2")
    yield from both("last_modulator", "norm_out.linear", form=SWAPPED)
    depth = len(net.blocks) + 1
    for i in range(depth):
        last = i == depth - 1
        ours, theirs = "last" if last else f"blocks.{i}", f"transformer_blocks.{i}"
        for stream, norm in {"image": "norm1", "text": "norm1_context"}.items():
            form = SWAPPED if last and stream == "text" else SAME
            yield from both(f"{ours}.{stream}.modulator", f"{theirs}.{norm}.linear", form=form)
        attention = f"{theirs}.attn"
        yield from _projection(f"{ours}.image.attention", f"{attention}.to_{{}}", f"{attention}.norm_{{}}", net.normed)
        names = f"{attention}.add_{{}}_proj", f"{attention}.norm_added_{{}}"
        yield from _projection(f"{ours}.text.attention", *names, net.normed)
        yield from _output_pairs(f"{ours}.image", f"{attention}.to_out.0", f"{theirs}.ff")
        if not last:
            yield from _output_pairs(f"{ours}.text", f"{attention}.to_add_out", f"{theirs}.ff_context")
        if i < net.dual:
            names = f"{theirs}.attn2.to_{{}}", f"{theirs}.attn2.norm_{{}}"
            yield from _projection(f"{ours}.image.own.attention", *names, net.normed)
            yield from both(f"{ours}.image.own.project", f"{theirs}.attn2.to_out.0")


def patches(patch: int, proj_in: str, readout: str) -> Iterator[Pair]:
    """The pairs of the layers between patches and tokens, which both published layouts have alike."""
    convolution = Form(lambda parts: parts[0].flatten(1), lambda whole, count: [whole.unflatten(1, (-1, patch, patch))])
    channel_last = Form(
        lambda parts: parts[0].unflatten(0, (patch**2, -1)).transpose(0, 1).flatten(0, 1),
        lambda whole, count: [whole.unflatten(0, (-1, patch**2)).transpose(0, 1).flatten(0, 1)],
    )
    yield Pair("proj_in.weight", (f"{proj_in}.weight",), convolution)
    yield Pair("proj_in.bias", (f"{proj_in}.bias",))
    yield from both("readout", readout, form=channel_last)


def _projection(ours: str, row: str, scale: str, normed: bool) -> Iterator[Pair]:
    yield from both(f"{ours}.qkv", *[row.format(letter) for letter in "qkv"], form=ROWS)
    if normed:
        yield Pair(f"{ours}.scale", tuple(f"{scale.format(letter)}.weight" for letter in "qk"), STACKED)


def _output_pairs(ours: str, out: str, mlp: str) -> Iterator[Pair]:
    yield from both(f"{ours}.project", out)
    yield from both(f"{ours}.expand", f"{mlp}.net.0.proj")
    yield from both(f"{ours}.contract", f"{mlp}.net.2")
