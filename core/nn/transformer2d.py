"""The spatial transformer: self-attention of a grid and cross-attention to a text (2112.10752, section 3.3).

    h = Linear(GroupNorm(x))                        places become tokens
    h = h + SelfAttention(LayerNorm(h))
    h = h + TextAttention(LayerNorm(h), text)       these three lines ``depth`` times
    h = h + GEGLU(LayerNorm(h))
    x = x + Linear(h)                               tokens become places

The keys and values of the text depend on the text only, so ``read_text`` makes them once for all steps of a sampler.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.attention import attend, merge_heads, split_heads
from core.nn.blocks import Style, zero
from core.nn.chunking import chunked

M = TypeVar("M", bound=nn.Module)
POSITIONS = 256  # whose perceptron is computed at once while sampling
EPSILON = 1e-6  # of the group norm before the tokens, whatever the rest of the network has


def listed(modules: Iterable[M]) -> list[M]:
    """An ``nn.ModuleList`` that a type checker sees as the list of its modules."""
    return cast(list[M], nn.ModuleList(modules))


class TextKeyValue(NamedTuple):
    """Keys and values of a text for one attention."""

    keys: Tensor  # (B, heads, L, d)
    values: Tensor  # (B, heads, L, d)


class SelfAttention(nn.Module):
    """Attention between all positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)  # rows [q; k; v]
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, d)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        out: Tensor = self.project(merge_heads(attend(query, key, value)))
        return out


class TextAttention(nn.Module):
    """Attention of all positions to a text."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.text = nn.Linear(text_width, 2 * width, bias=False)  # rows [k; v]
        self.project = nn.Linear(width, width)

    def read_text(self, tokens: Tensor) -> TextKeyValue:
        """tokens (B, L, text_width)."""
        keys, values = (split_heads(part, self.heads).contiguous() for part in self.text(tokens).chunk(2, dim=-1))
        return TextKeyValue(keys, values)

    def forward(self, x: Tensor, text: TextKeyValue, mask: Tensor | None) -> Tensor:
        """x (B, N, width), mask (B, L) true where a token is real -> (B, N, width)."""
        query = split_heads(self.query(x), self.heads)
        out: Tensor = self.project(merge_heads(attend(query, text.keys, text.values, mask)))
        return out


class TransformerLayer(nn.Module):
    """Self-attention, attention to the text, and a gated MLP, each on the residual of its normalised input.

    ``cross_only`` replaces self-attention by a second attention to the text, as the x4-upscaler does on fine grids.
    """

    def __init__(self, width: int, heads: int, text_width: int, cross_only: bool) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.first = TextAttention(width, heads, text_width) if cross_only else SelfAttention(width, heads)
        self.second = TextAttention(width, heads, text_width)
        self.expand = nn.Linear(width, 8 * width)  # rows [value; gate]
        self.contract = nn.Linear(4 * width, width)

    def read_text(self, tokens: Tensor) -> list[TextKeyValue]:
        """Keys and values of the text: of the second attention and, with ``cross_only``, of the first."""
        readings = [self.second.read_text(tokens)]
        return [*readings, self.first.read_text(tokens)] if isinstance(self.first, TextAttention) else readings

    def forward(self, x: Tensor, readings: list[TextKeyValue], mask: Tensor | None) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        if isinstance(self.first, TextAttention):
            x = self.first(self.norm1(x), readings[1], mask) + x
        else:
            x = self.first(self.norm1(x)) + x
        x = self.second(self.norm2(x), readings[0], mask) + x
        return chunked(self.perceptron, POSITIONS, x)

    def perceptron(self, x: Tensor) -> Tensor:
        """The gated MLP on its residual: (B, N, width) -> (B, N, width)."""
        value, gate = self.expand(self.norm3(x)).chunk(2, dim=-1)
        return self.contract(F.gelu(gate).mul_(value)).add_(x)


class SpatialTransformer(nn.Module):
    """Transformer layers over the places of a grid of any dimension, on its residual."""

    def __init__(
        self, style: Style, channels: int, heads: int, depth: int, text_width: int, cross_only: bool = False
    ) -> None:
        """Raises ValueError where the channels do not divide into groups."""
        super().__init__()
        self.norm = style.norm(channels)
        self.norm.eps = EPSILON
        self.proj_in = nn.Linear(channels, channels)
        self.layers = listed(TransformerLayer(channels, heads, text_width, cross_only) for _ in range(depth))
        self.proj_out = zero(nn.Linear(channels, channels))

    def read_text(self, tokens: Tensor) -> list[list[TextKeyValue]]:
        """Keys and values of a text (B, L, text_width) in each layer."""
        return [layer.read_text(tokens) for layer in self.layers]

    def forward(self, x: Tensor, readings: list[list[TextKeyValue]], mask: Tensor | None) -> Tensor:
        """x (B, C, *grid), the text's keys and values in each layer, mask (B, L) -> (B, C, *grid)."""
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # (B, N, C): a view where x is channels-last
        for layer, reading in zip(self.layers, readings):
            h = layer(h, reading, mask)
        return x + self.proj_out(h).transpose(1, 2).reshape(x.shape)
