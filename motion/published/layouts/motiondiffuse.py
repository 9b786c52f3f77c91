"""MotionDiffuse's published keys, both ways: the network, and its layers over the text encoder's states."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import ROWS, Pair, both, to_ours, to_theirs
from motion.nn.motiondiffuse import CaptionEncoder, MotionDiffuse
from motion.published.layouts.mdm import layer_pairs

PARTS = ("sa_block", "ca_block", "ffn")


def from_original(
    tensors: Mapping[str, Tensor], heads: int = 8, text_heads: int = 4, what: str = "this file"
) -> tuple[MotionDiffuse, CaptionEncoder]:
    """Read the original's tensors; its copy of CLIP is left aside. Raises CheckpointError for foreign tensors."""
    tensors = {key: value for key, value in tensors.items() if not key.startswith("clip.")}
    shapes = {key: value.shape for key, value in tensors.items()}
    needed = ("sequence_embedding", "out.weight", "text_pre_proj.weight", "text_proj.0.weight")
    hidden, text_hidden = "temporal_decoder_blocks.0.ffn.linear1.weight", "textTransEncoder.layers.0.linear1.weight"
    absent = [key for key in (*needed, hidden, text_hidden) if key not in shapes]
    if absent:
        raise CheckpointError(f"{what} has no {absent[0]}: it is no MotionDiffuse with linear attention")
    frames, width = shapes["sequence_embedding"]
    text, source = shapes["text_pre_proj.weight"]
    depth, text_depth = (_count(shapes, stem) for stem in ("temporal_decoder_blocks", "textTransEncoder.layers"))
    with torch.device("meta"):
        net = MotionDiffuse(shapes["out.weight"][0], frames, width, shapes[hidden][0], depth, heads, text)
        vector = shapes["text_proj.0.weight"][0]
        reader = CaptionEncoder(source, text, shapes[text_hidden][0], text_depth, text_heads, vector)
    state = to_ours([*_net_pairs(depth), *_reader_pairs(text_depth)], tensors, what)
    for prefix, module in (("net.", net), ("reader.", reader)):
        mine = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        fill(module, mine, Path(what))
    return net.eval(), reader.eval()


def to_original(net: MotionDiffuse, reader: CaptionEncoder) -> dict[str, Tensor]:
    """The tensors as the original names them, without CLIP."""
    state = {f"net.{key}": value.detach() for key, value in net.state_dict().items()}
    state |= {f"reader.{key}": value.detach() for key, value in reader.state_dict().items()}
    return to_theirs([*_net_pairs(len(net.blocks)), *_reader_pairs(len(reader.layers))], state)


def _count(shapes: Mapping[str, torch.Size], stem: str) -> int:
    return len({match.group() for key in shapes if (match := re.match(re.escape(stem) + r"\.\d+\.", key))})


def _net_pairs(depth: int) -> Iterator[Pair]:
    yield Pair("net.positions", ("sequence_embedding",))
    yield from both("net.proj_in", "joint_embed")
    yield from both("net.first", "time_embed.0")
    yield from both("net.second", "time_embed.2")
    yield from both("net.proj_out", "out")
    for i in range(depth):
        ours, theirs = f"net.blocks.{i}", f"temporal_decoder_blocks.{i}"
        yield from both(f"{ours}.norm", f"{theirs}.sa_block.norm")
        yield from both(f"{ours}.qkv", *[f"{theirs}.sa_block.{name}" for name in ("query", "key", "value")], form=ROWS)
        yield from both(f"{ours}.reader_norm", f"{theirs}.ca_block.norm")
        yield from both(f"{ours}.text_norm", f"{theirs}.ca_block.text_norm")
        yield from both(f"{ours}.reader", f"{theirs}.ca_block.query")
        yield from both(f"{ours}.words", f"{theirs}.ca_block.key", f"{theirs}.ca_block.value", form=ROWS)
        yield from both(f"{ours}.expand", f"{theirs}.ffn.linear1")
        yield from both(f"{ours}.contract", f"{theirs}.ffn.linear2")
        for place, part in enumerate(PARTS):
            yield from both(f"{ours}.restyles.{place}.modulation", f"{theirs}.{part}.proj_out.emb_layers.1")
            yield from both(f"{ours}.restyles.{place}.norm", f"{theirs}.{part}.proj_out.norm")
            yield from both(f"{ours}.restyles.{place}.out", f"{theirs}.{part}.proj_out.out_layers.2")


def _reader_pairs(depth: int) -> Iterator[Pair]:
    yield from both("reader.proj_in", "text_pre_proj")
    for i in range(depth):
        yield from layer_pairs(f"reader.layers.{i}", f"textTransEncoder.layers.{i}")
    yield from both("reader.norm", "text_ln")
    yield from both("reader.pool", "text_proj.0")
