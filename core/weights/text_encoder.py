"""Text encoders' tensors: ``transformers``' names and OpenCLIP's, and the configuration that their shapes tell.

OpenCLIP fuses queries, keys and values into ``in_proj`` and keeps its projection as (in, out), a linear layer's
transposed. What files hold besides (position numbers, the temperature of CLIP's loss) is left aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from core.weights.checkpoint import CheckpointError
from core.weights.pairs import ROWS, TRANSPOSED_ROWS, Pair, both

ASIDE = re.compile(r".*(position_ids|logit_scale|attn_mask)$")
HEAD = 64  # the width of a head in every published CLIP text encoder
PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def open_clip_pairs(layers: int, projected: bool) -> Iterator[Pair]:
    """OpenCLIP's tensors and those of ``transformers`` that they are made of."""
    yield Pair("token_embedding.weight", ("text_model.embeddings.token_embedding.weight",))
    yield Pair("positional_embedding", ("text_model.embeddings.position_embedding.weight",))
    for i in range(layers):
        ours, theirs = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        for part in ("weight", "bias"):
            names = tuple(f"{theirs}.self_attn.{letter}_proj.{part}" for letter in "qkv")
            yield Pair(f"{ours}.attn.in_proj_{part}", names, ROWS)
        for mine, name in PARTS.items():
            yield from both(f"{ours}.{mine}", f"{theirs}.{name}")
    yield from both("ln_final", "text_model.final_layer_norm")
    if projected:
        yield Pair("text_projection", ("text_projection.weight",), TRANSPOSED_ROWS)


def cleaned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's own tensors, with the prefix that some versions of ``transformers`` leave out."""
    kept = {name: value for name, value in tensors.items() if not ASIDE.fullmatch(name)}
    bare = ("embeddings.", "encoder.layers.", "final_layer_norm.")
    return {f"text_model.{name}" if name.startswith(bare) else name: value for name, value in kept.items()}


def penultimate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's tensors without the last layer and the projection, which Stable Diffusion 2 never asks."""
    last = f"transformer.resblocks.{depth(tensors) - 1}."
    return {name: value for name, value in tensors.items() if not name.startswith(last) and name != "text_projection"}


def depth(tensors: Mapping[str, Tensor]) -> int:
    """How many layers the encoder has, in either layout."""
    found = {match[1] for name in tensors if (match := re.match(r".*(?:resblocks|encoder\.layers)\.(\d+)\.", name))}
    return len(found)


def clip_config(tensors: Mapping[str, Tensor], act: str, what: str) -> dict[str, Any]:
    """The configuration of a CLIP encoder, from the shapes of its tensors under the names of ``transformers``.

    ``act``, its activation, is in no shape: "quick_gelu" for OpenAI's CLIP, "gelu" for OpenCLIP.
    """
    try:
        vocabulary, width = tensors["text_model.embeddings.token_embedding.weight"].shape
        length = len(tensors["text_model.embeddings.position_embedding.weight"])
        inner = len(tensors["text_model.encoder.layers.0.mlp.fc1.weight"])
    except KeyError as error:
        raise CheckpointError(f"{what} has no {error.args[0]}: it is no CLIP text encoder") from error
    projection = tensors.get("text_projection.weight")
    return {
        "architectures": ["CLIPTextModel" if projection is None else "CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": depth(tensors),
        "num_attention_heads": max(1, width // HEAD),
        "max_position_embeddings": length,
        "hidden_act": act,
        "layer_norm_eps": 1e-5,
        "projection_dim": width if projection is None else len(projection),
        "bos_token_id": 0,
        "eos_token_id": 2,  # as published: the end is then the token of the highest number
        "pad_token_id": 1,
    }


def t5_config(tensors: Mapping[str, Tensor], what: str) -> dict[str, Any]:
    """The configuration of a T5 encoder (version 1.1), from the shapes of its tensors."""
    try:
        vocabulary, width = tensors["shared.weight"].shape
        inner = len(tensors["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"])
        buckets, heads = tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].shape
        rows = len(tensors["encoder.block.0.layer.0.SelfAttention.q.weight"])
    except KeyError as error:
        raise CheckpointError(f"{what} has no {error.args[0]}: it is no T5 encoder") from error
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": vocabulary,
        "d_model": width,
        "d_ff": inner,
        "d_kv": rows // heads,
        "num_heads": heads,
        "num_layers": len({name.split(".")[2] for name in tensors if name.startswith("encoder.block.")}),
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "tie_word_embeddings": False,
    }
