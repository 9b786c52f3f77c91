"""DiT's published layouts: diffusers' ``DiTTransformer2DModel`` folder and the original's keys, both ways.

diffusers keeps a time embedding and a table of classes in every block, where the original has one of each. Equal
copies become our single embedding; where they differ, the network gets an embedding for each block, and the table
holds the blocks' tables side by side. The last layer listens to block 0's. diffusers also spaces the time frequencies
by half - 1 instead of half, and normalises before the MLP with an epsilon of 1e-5.

A layout is the network and the table (classes + 1, width) whose rows are ``cond.vector``; the last row is no class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from core.nn.dit import DiT, Patches
from core.nn.embeddings import sincos_positions
from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import COLUMNS, ROWS, SAME, Pair, both, read_folder, to_ours, to_theirs, write_folder

CLASS = "DiTTransformer2DModel"
TABLE = "table"
POSITIONS = "front.positions"
REQUIRED = {"norm_type": "ada_norm_zero", "activation_fn": "gelu-approximate", "norm_elementwise_affine": False}


def load_diffusers(folder: Path) -> tuple[DiT, Tensor]:
    """Read a diffusers folder: the network, and the table (classes + 1, embedders * width)."""
    config, tensors = read_folder(folder, CLASS)
    for key, wanted in REQUIRED.items():
        if config.get(key, wanted) != wanted:
            raise CheckpointError(f"{folder} has {key} = {config[key]!r}: a DiT of this layout has {wanted!r}")
    depth, heads, bias = config["num_layers"], config["num_attention_heads"], config.get("attention_bias", True)
    embedders = 1 if _copies_agree(tensors) else depth
    state = to_ours(_diffusers_pairs(depth, embedders, bias), tensors, str(folder))
    size, channels, width = config["sample_size"], config["in_channels"], heads * config["attention_head_dim"]
    with torch.device("meta"):
        net = DiT(
            Patches((size, size), channels, width, config["patch_size"], config.get("out_channels")),
            depth,
            heads,
            qkv_bias=bias,
            mlp_epsilon=config.get("norm_eps", 1e-5),
            frequency_shift=1.0,
            embedders=embedders,
        )
    return _assemble(net, state, str(folder))


def save_diffusers(folder: Path, net: DiT, table: Tensor) -> None:
    """Write a folder that diffusers loads. Raises CheckpointError for a network that its class cannot express."""
    front = _square(net)
    if net.frequency_shift != 1.0:
        raise CheckpointError("diffusers' DiT spaces its time frequencies with shift 1: this network has another shift")
    depth, bias = len(net.blocks), "blocks.0.qkv.bias" in net.state_dict()
    config = REQUIRED | {
        "num_layers": depth,
        "num_attention_heads": net.heads,
        "attention_head_dim": front.width // net.heads,
        "attention_bias": bias,
        "in_channels": front.project.in_channels,
        "out_channels": front.out_channels,
        "sample_size": front.tokens[0] * front.patch,
        "patch_size": front.patch,
        "num_embeds_ada_norm": len(table) - 1,
        "norm_eps": net.mlp_epsilon,
    }
    pairs = _diffusers_pairs(depth, len(net.times), bias)
    write_folder(folder, CLASS, config, to_theirs(pairs, _disassemble(net, table)))


def from_original(tensors: Mapping[str, Tensor], heads: int, what: str = "this file") -> tuple[DiT, Tensor]:
    """Read the original's tensors; heads are 6, 12, 16, 16 for S, B, L, XL. Raises CheckpointError for foreign ones."""
    tensors = dict(tensors)
    patch_weight, places = tensors.get("x_embedder.proj.weight"), tensors.pop("pos_embed", None)
    final = tensors.get("final_layer.linear.bias")
    if patch_weight is None or places is None or final is None:
        raise CheckpointError(f"{what} has no x_embedder.proj, pos_embed or final_layer.linear: it is no original DiT")
    width, channels, patch, _ = patch_weight.shape
    side = round(places.shape[-2] ** 0.5)
    if (places.reshape(-1, width) - sincos_positions((side, side), width)).abs().max() > 1e-5:
        raise CheckpointError(f"{what} has another position table than DiT's fixed sine-cosine one")
    depth = len({name.group() for key in tensors if (name := re.match(r"blocks\.\d+", key))})
    state = to_ours(_original_pairs(depth), tensors, what)
    with torch.device("meta"):
        front = Patches((side * patch,) * 2, channels, width, patch, len(final) // patch**2)
        net = DiT(front, depth, heads)
    return _assemble(net, state, what)


def to_original(net: DiT, table: Tensor) -> dict[str, Tensor]:
    """The tensors as the original names them. Raises CheckpointError for a network that its class cannot express."""
    front = _square(net)
    if net.frequency_shift != 0.0 or net.mlp_epsilon != 1e-6 or len(net.times) > 1:
        raise CheckpointError(
            "the original DiT has one time embedding of shift 0 and epsilons of 1e-6: save this network for diffusers"
        )
    return to_theirs(_original_pairs(len(net.blocks)), _disassemble(net, table)) | {
        "pos_embed": front.positions[None].clone()
    }


def _diffusers_pairs(depth: int, embedders: int, bias: bool) -> Iterator[Pair]:
    blocks = [f"transformer_blocks.{i}" for i in range(depth)]
    for e in range(embedders):
        sources = [f"{block}.norm1.emb.timestep_embedder" for block in (blocks if embedders == 1 else [blocks[e]])]
        yield from both(f"times.{e}.first", *[f"{source}.linear_1" for source in sources])
        yield from both(f"times.{e}.second", *[f"{source}.linear_2" for source in sources])
    tables = tuple(f"{block}.norm1.emb.class_embedder.embedding_table.weight" for block in blocks)
    yield Pair(TABLE, tables, SAME if embedders == 1 else COLUMNS)
    yield from both("front.project", "pos_embed.proj")
    for i, block in enumerate(blocks):
        yield from both(f"modulators.{i}", f"{block}.norm1.linear")
        for part in ("weight", "bias") if bias else ("weight",):
            names = tuple(f"{block}.attn1.to_{letter}.{part}" for letter in "qkv")
            yield Pair(f"blocks.{i}.qkv.{part}", names, ROWS)
        yield from both(f"blocks.{i}.project", f"{block}.attn1.to_out.0")
        yield from both(f"blocks.{i}.expand", f"{block}.ff.net.0.proj")
        yield from both(f"blocks.{i}.contract", f"{block}.ff.net.2")
    yield from both("last_modulator", "proj_out_1")
    yield from both("readout", "proj_out_2")


def _original_pairs(depth: int) -> Iterator[Pair]:
    yield from both("times.0.first", "t_embedder.mlp.0")
    yield from both("times.0.second", "t_embedder.mlp.2")
    yield Pair(TABLE, ("y_embedder.embedding_table.weight",))
    yield from both("front.project", "x_embedder.proj")
    for i in range(depth):
        yield from both(f"modulators.{i}", f"blocks.{i}.adaLN_modulation.1")
        yield from both(f"blocks.{i}.qkv", f"blocks.{i}.attn.qkv")
        yield from both(f"blocks.{i}.project", f"blocks.{i}.attn.proj")
        yield from both(f"blocks.{i}.expand", f"blocks.{i}.mlp.fc1")
        yield from both(f"blocks.{i}.contract", f"blocks.{i}.mlp.fc2")
    yield from both("last_modulator", "final_layer.adaLN_modulation.1")
    yield from both("readout", "final_layer.linear")


def _copies_agree(tensors: Mapping[str, Tensor]) -> bool:
    copies = {key: value for key, value in tensors.items() if ".norm1.emb." in key}
    firsts = {key: re.sub(r"blocks\.\d+", "blocks.0", key) for key in copies}
    return all(
        first in copies and copies[first].shape == copies[key].shape and torch.equal(copies[first], copies[key])
        for key, first in firsts.items()
    )


def _assemble(net: DiT, state: dict[str, Tensor], what: str) -> tuple[DiT, Tensor]:
    front = _square(net)
    table = state.pop(TABLE)
    # The table of positions is a constant of the network that neither layout's tensors need to hold.
    fill(net, state | {POSITIONS: sincos_positions(front.tokens, front.width)}, Path(what))
    return net.eval(), table


def _disassemble(net: DiT, table: Tensor) -> dict[str, Tensor]:
    state = {key: value.detach() for key, value in net.state_dict().items() if key != POSITIONS}
    return state | {TABLE: table.detach()}


def _square(net: DiT) -> Patches:
    front = net.front
    if not isinstance(front, Patches) or len(front.tokens) != 2 or front.tokens[0] != front.tokens[1]:
        raise CheckpointError("published DiT layouts hold networks of square images: save this one in our own format")
    return front
