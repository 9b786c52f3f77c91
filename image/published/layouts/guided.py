"""The original guided-diffusion keys of ADM and its kin, both ways (2105.05233).

Attention's rows of queries, keys and values come in two orders: [q; k; v] in the 64 x 64 model and the consistency
models, and head by head [q_h; k_h; v_h] in all others. Only the configuration of a file states which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from core.nn.unet import UNet
from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import SAME, Form, Pair, both, to_ours, to_theirs

TABLE = "label_emb.weight"

# Convolutions of size 1 over flattened grids, which are linear layers.
LINEAR = Form(lambda parts: parts[0].squeeze(-1), lambda whole, count: [whole.unsqueeze(-1)])


def load_guided(net: UNet, tensors: Mapping[str, Tensor], by_head: bool, what: str = "this file") -> Tensor | None:
    """Fill a network with the original's tensors, and return its table (classes + 1, 4 width) or None.

    ``by_head`` is true for the legacy order of attention's rows. Raises CheckpointError for foreign tensors.
    """
    tensors = dict(tensors)
    table = tensors.pop(TABLE, None)
    fill(net, to_ours(pairs(net, by_head), tensors, what), Path(what))
    return None if table is None else torch.cat([table, torch.zeros_like(table[:1])])


def to_guided(net: UNet, by_head: bool, table: Tensor | None = None) -> dict[str, Tensor]:
    """The network's tensors, and the table's, as the original names them."""
    tensors = to_theirs(pairs(net, by_head), net.state_dict())
    if table is not None:
        if bool(table[-1].any()):
            raise CheckpointError("guided-diffusion has no row for 'no class', but this table's is not zero")
        tensors[TABLE] = table[:-1].detach().clone()
    return tensors


def pairs(net: UNet, by_head: bool) -> Iterator[Pair]:
    """Our tensors and the original's, for a network's shape."""
    names = set(net.state_dict())

    def residual(ours: str, theirs: str) -> Iterator[Pair]:
        parts = {
            "norm1": "in_layers.0",
            "conv1": "in_layers.2",
            "time": "emb_layers.1",
            "norm2": "out_layers.0",
            "conv2": "out_layers.3",
        }
        for mine, name in parts.items():
            yield from both(f"{ours}.{mine}", f"{theirs}.{name}")
        if f"{ours}.skip.weight" in names:
            yield from both(f"{ours}.skip", f"{theirs}.skip_connection")

    def attention(ours: str, theirs: str, heads: int) -> Iterator[Pair]:
        yield from both(f"{ours}.norm", f"{theirs}.norm")
        yield Pair(f"{ours}.qkv.weight", (f"{theirs}.qkv.weight",), chain(LINEAR, rows(heads)) if by_head else LINEAR)
        yield Pair(f"{ours}.qkv.bias", (f"{theirs}.qkv.bias",), rows(heads) if by_head else SAME)
        yield Pair(f"{ours}.project.weight", (f"{theirs}.proj_out.weight",), LINEAR)
        yield Pair(f"{ours}.project.bias", (f"{theirs}.proj_out.bias",))

    def resample(ours: str, theirs: str, conv: str) -> Iterator[Pair]:
        yield from residual(ours, theirs) if net.biggan else both(f"{ours}.conv", f"{theirs}.{conv}")

    yield from both("time.0", "time_embed.0")
    yield from both("time.2", "time_embed.2")
    yield from both("conv_in", "input_blocks.0.0")
    place = 1
    for i, level in enumerate(net.down):
        for j in range(net.blocks):
            yield from residual(f"down.{i}.blocks.{j}.residual", f"input_blocks.{place}.0")
            if i in net.attention:
                yield from attention(
                    f"down.{i}.blocks.{j}.attention", f"input_blocks.{place}.1", net.style.heads_of(net.widths[i])
                )
            place += 1
        if level.resample is not None:
            yield from resample(f"down.{i}.resample", f"input_blocks.{place}.0", "op")
            place += 1
    yield from residual("middle.first.residual", "middle_block.0")
    if net.middle_attention:
        yield from attention("middle.first.attention", "middle_block.1", net.style.heads_of(net.widths[-1]))
    yield from residual("middle.second.residual", f"middle_block.{2 if net.middle_attention else 1}")
    place = 0
    for i, level in enumerate(net.up):
        source = net.levels - 1 - i
        for j in range(net.blocks + 1):
            yield from residual(f"up.{i}.blocks.{j}.residual", f"output_blocks.{place}.0")
            if source in net.attention:
                ours = f"up.{i}.blocks.{j}.attention"
                yield from attention(ours, f"output_blocks.{place}.1", net.style.heads_of(net.widths[source]))
            if j == net.blocks and level.resample is not None:
                last = 2 if source in net.attention else 1
                yield from resample(f"up.{i}.resample", f"output_blocks.{place}.{last}", "conv")
            place += 1
    yield from both("norm_out", "out.0")
    yield from both("conv_out", "out.2")


def rows(heads: int) -> Form:
    """Rows head by head, [q_h; k_h; v_h], as [q; k; v]."""
    return Form(
        lambda parts: _swap(parts[0], heads, 3),
        lambda whole, count: [_swap(whole, 3, heads)],
    )


def _swap(value: Tensor, outer: int, inner: int) -> Tensor:
    return value.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)


def chain(first: Form, second: Form) -> Form:
    """One form after the other, of a single tensor."""
    return Form(
        lambda parts: second.read([first.read(parts)]),
        lambda whole, count: first.write(second.write(whole, 1)[0], count),
    )
