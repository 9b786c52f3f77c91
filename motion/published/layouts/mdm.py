"""MDM's published keys, both ways. A file also holds position tables and a text encoder, which are not its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import Pair, both, to_ours, to_theirs
from motion.nn.mdm import MDM, Decoder, Encoder, Recurrent

TABLE = "embed_action.action_embedding"
FOREIGN = ("clip_model.", "sequence_pos_encoder.", "embed_timestep.sequence_pos_encoder.", "rot2xyz.")


def weights(file: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The tensors of a published file: its averaged ones, its plain ones, or the file itself."""
    found: Mapping[str, Tensor] = file.get("model_avg") or file.get("model") or file
    return found


def from_original(
    tensors: Mapping[str, Tensor], heads: int = 4, what: str = "this file", words: bool = False
) -> tuple[MDM, Tensor | None]:
    """Read the original's tensors: the network, and the table (actions, width) of one that is told actions.

    words: whether it is told each word, as those with DistilBERT are. Raises CheckpointError for foreign tensors.
    """
    tensors = {key: value for key, value in tensors.items() if not key.startswith(FOREIGN)}
    table = tensors.pop(TABLE, None)
    read, say = (tensors.get(f"{name}.weight") for name in ("input_process.poseEmbedding", "output_process.poseFinal"))
    if read is None or say is None:
        raise CheckpointError(f"{what} has no input_process.poseEmbedding or output_process.poseFinal: it is no MDM")
    width, features = len(read), len(say)
    stem = "gru" if any(key.startswith("gru.") for key in tensors) else _stem(tensors)
    depth = len({match.group() for key in tensors if (match := re.search(r"layers\.\d+|weight_ih_l\d+", key))})
    text = tensors.get("embed_text.weight")
    with torch.device("meta"):
        body = Recurrent(width, depth) if stem == "gru" else _body(tensors, stem, width, depth, heads)
        net = MDM(features, width, body, None if text is None else text.shape[1], words)
    fill(net, to_ours(_pairs(net), tensors, what), Path(what))
    return net.eval(), table


def to_original(net: MDM, table: Tensor | None = None) -> dict[str, Tensor]:
    """The tensors as the original names them, without the tables of positions."""
    tensors = to_theirs(_pairs(net), {key: value.detach() for key, value in net.state_dict().items()})
    return tensors if table is None else tensors | {TABLE: table.detach().clone()}


def _stem(tensors: Mapping[str, Tensor]) -> str:
    return "seqTransDecoder" if any(key.startswith("seqTransDecoder.") for key in tensors) else "seqTransEncoder"


def _body(tensors: Mapping[str, Tensor], stem: str, width: int, depth: int, heads: int) -> Encoder | Decoder:
    first = tensors.get(f"{stem}.layers.0.linear1.weight")
    hidden = 1 if first is None else len(first)
    return (Decoder if stem == "seqTransDecoder" else Encoder)(width, hidden, depth, heads)


def _pairs(net: MDM) -> Iterator[Pair]:
    yield from both("proj_in", "input_process.poseEmbedding")
    yield from both("first", "embed_timestep.time_embed.0")
    yield from both("second", "embed_timestep.time_embed.2")
    if net.cond_proj is not None:
        yield from both("cond_proj", "embed_text")
    yield from both("proj_out", "output_process.poseFinal")
    body = net.body
    if isinstance(body, Recurrent):
        for key in body.gru.state_dict():
            yield Pair(f"body.gru.{key}", (f"gru.{key}",))
    elif isinstance(body, Encoder | Decoder):
        reading = isinstance(body, Decoder)
        for i in range(len(body.layers)):
            name = f"{'seqTransDecoder' if reading else 'seqTransEncoder'}.layers.{i}"
            yield from layer_pairs(f"body.layers.{i}", name, reading)


def layer_pairs(ours: str, theirs: str, reading: bool = False) -> Iterator[Pair]:
    """The pairs of one of torch's own transformer layers."""
    for part in ("weight", "bias"):
        yield Pair(f"{ours}.qkv.{part}", (f"{theirs}.self_attn.in_proj_{part}",))
        if reading:
            yield Pair(f"{ours}.reader.{part}", (f"{theirs}.multihead_attn.in_proj_{part}",))
    yield from both(f"{ours}.project", f"{theirs}.self_attn.out_proj")
    if reading:
        yield from both(f"{ours}.reader_project", f"{theirs}.multihead_attn.out_proj")
        yield from both(f"{ours}.norm3", f"{theirs}.norm3")
    yield from both(f"{ours}.expand", f"{theirs}.linear1")
    yield from both(f"{ours}.contract", f"{theirs}.linear2")
    yield from both(f"{ours}.norm1", f"{theirs}.norm1")
    yield from both(f"{ours}.norm2", f"{theirs}.norm2")
