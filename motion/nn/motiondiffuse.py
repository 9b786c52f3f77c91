"""MotionDiffuse: linear attention over the frames of a sequence and over its words (2208.15001).

Linear attention normalises queries over their features and keys over positions, so that the result is one small matrix
however long the sequence is (1812.01243):

    y = softmax_features(q) (softmax_positions(k)^T v)

A block is attention to frames, attention to words and an MLP; the output of each is modulated by time and text:

    x = x + Linear(silu(norm(y) (1 + scale) + shift)),    scale, shift = Linear(silu(embed(time) + cond.vector))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.attention import merge_heads, split_heads
from core.nn.blocks import zero
from core.nn.embeddings import memoize_by_time, sinusoid
from motion.nn.mdm import Layer


def gather(key: Tensor, value: Tensor, exists: Tensor | None) -> Tensor:
    """``softmax_positions(key)^T value``: (B, heads, N, d) and which positions are real (B, N) -> (B, heads, d, d)."""
    if exists is not None:
        absent = ~exists[:, None, :, None]
        key, value = key.masked_fill(absent, -1e6), value.masked_fill(absent, 0.0)
    return key.softmax(dim=-2).transpose(-1, -2) @ value


@dataclass(frozen=True)
class Styles:
    """The modulations; a function of time and text only, so they can be cached."""

    blocks: list[list[tuple[Tensor, Tensor]]]  # of each block three times: 1 + scale, shift (B, 1, D)


class Restyle(nn.Module):
    """``Linear(silu(norm(y) (1 + scale) + shift))``, starting at zero."""

    def __init__(self, width: int, embedded: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.modulation = nn.Linear(embedded, 2 * width)
        self.norm = nn.LayerNorm(width)
        self.out = zero(nn.Linear(width, width))

    def style(self, active: Tensor) -> tuple[Tensor, Tensor]:
        """The embedding, activated (B, 1, embedded) -> 1 + scale, shift."""
        scale, shift = self.modulation(active).chunk(2, dim=-1)
        return 1 + scale, shift

    def forward(self, y: Tensor, style: tuple[Tensor, Tensor]) -> Tensor:
        styled = F.silu(torch.addcmul(style[1], self.norm(y), style[0]))
        found: Tensor = self.out(F.dropout(styled, self.dropout, self.training))
        return found


class Block(nn.Module):
    """Linear attention to frames and to words, and a GELU MLP, each modulated on the residual."""

    def __init__(self, width: int, hidden: int, heads: int, embedded: int, text: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)  # rows [q; k; v]
        self.reader_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(text)
        self.reader = nn.Linear(width, width)
        self.words = nn.Linear(text, 2 * width)  # rows [k; v]
        self.expand, self.contract = nn.Linear(width, hidden), zero(nn.Linear(hidden, width))
        self.restyles = nn.ModuleList(Restyle(width, embedded, dropout) for _ in range(3))

    def styles(self, active: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What the embedding (B, 1, embedded) gives each of the three modulations."""
        return [restyle.style(active) for restyle in self.restyles if isinstance(restyle, Restyle)]

    def read_words(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """The words' (B, L, text) summary for a sequence of any length: (B, heads, d, d)."""
        key, value = (split_heads(part, self.heads) for part in self.words(self.text_norm(tokens)).chunk(2, dim=-1))
        return gather(key, value, mask)

    def forward(
        self, x: Tensor, text: Tensor | None, styles: list[tuple[Tensor, Tensor]], valid: Tensor | None
    ) -> Tensor:
        """x (B, T, D), the results of ``read_words`` and of ``styles``, valid (B, T) -> (B, T, D)."""
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        x = x + self.restyles[0](merge_heads(query.softmax(-1) @ gather(key, value, valid)), styles[0])
        if text is not None:
            query = split_heads(self.reader(self.reader_norm(x)), self.heads)
            x = x + self.restyles[1](merge_heads(query.softmax(-1) @ text), styles[1])
        hidden = self.contract(F.dropout(F.gelu(self.expand(x)), self.dropout, self.training))
        changed: Tensor = x + self.restyles[2](hidden, styles[2])
        return changed


class MotionDiffuse(nn.Module):
    """Sequences (B, T, features) of at most ``frames``; cond.vector (B, 4 width) and cond.tokens (B, L, text)."""

    def __init__(
        self,
        features: int,
        frames: int = 196,
        width: int = 512,
        hidden: int = 1024,
        depth: int = 8,
        heads: int = 8,
        text: int = 256,
        dropout: float = 0.0,
    ) -> None:
        """The published sizes are the defaults (2208.15001, section 4). Raises ValueError for uneven heads."""
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads: choose a multiple of {heads}")
        self.features, self.width, self.heads = features, width, heads
        self.positions = nn.Parameter(torch.randn(frames, width))
        self.proj_in = nn.Linear(features, width)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, 4 * width)
        self.blocks = nn.ModuleList(Block(width, hidden, heads, 4 * width, text, dropout) for _ in range(depth))
        self.proj_out = zero(nn.Linear(width, features))

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """x (B, T, features), time (B,), cond.valid (B, T), cond.mask (B, L) -> (B, T, features)."""
        return self.denoise(x, self.styles(time, cond), self.words_of(cond), cond.valid)

    def prepare(self, cond: Cond) -> Callable[[Tensor, Tensor], Tensor]:
        """The network with its condition inside: words are encoded once, and styles are memoized by time."""
        text, styles = self.words_of(cond), memoize_by_time(lambda time: self.styles(time, cond))
        return lambda x, time: self.denoise(x, styles(time), text, cond.valid)

    def styles(self, time: Tensor, cond: Cond) -> Styles:
        """All modulations, which depend on time (B,) and cond.vector only."""
        embedded = self.second(F.silu(self.first(sinusoid(time, self.width).to(self.first.weight))))
        if cond.vector is not None:
            if cond.vector.shape[-1] != 4 * self.width:
                raise ValueError(
                    f"condition vector of width {cond.vector.shape[-1]}: this network takes {4 * self.width}"
                )
            embedded = embedded + cond.vector
        active = F.silu(embedded)[:, None]
        return Styles([block.styles(active) for block in self.blocks if isinstance(block, Block)])

    def words_of(self, cond: Cond) -> list[Tensor] | None:
        """Each block's summary of the words; None where there are none."""
        tokens = cond.tokens
        if tokens is None:
            return None
        return [block.read_words(tokens, cond.mask) for block in self.blocks if isinstance(block, Block)]

    def denoise(self, x: Tensor, styles: Styles, text: list[Tensor] | None, valid: Tensor | None) -> Tensor:
        """The network, its condition encoded; frames that are not ``valid`` (B, T) affect no other."""
        count = x.shape[1]
        if count > len(self.positions):
            raise ValueError(f"a sequence of {count} frames: this network has places for {len(self.positions)}")
        if valid is not None and valid.shape != x.shape[:2]:
            raise ValueError(f"valid mask of shape {tuple(valid.shape)} for frames {tuple(x.shape[:2])}")
        x = self.proj_in(x) + self.positions[:count]
        for place, (block, style) in enumerate(zip(self.blocks, styles.blocks)):
            x = block(x, None if text is None else text[place], style, valid)
        output: Tensor = self.proj_out(x)
        return output


class CaptionEncoder(nn.Module):
    """MotionDiffuse's own layers over the states of a frozen text encoder: what its cond.tokens and vector are."""

    def __init__(
        self,
        source: int = 512,
        width: int = 256,
        hidden: int = 2048,
        depth: int = 4,
        heads: int = 4,
        vector: int = 2048,
    ) -> None:
        """source: width of the states; vector: 4 times the network's width."""
        super().__init__()
        self.proj_in = nn.Linear(source, width)
        self.layers = nn.ModuleList(Layer(width, hidden, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.pool = nn.Linear(width, vector)

    def forward(self, states: Tensor, last: Tensor) -> Cond:
        """states (B, L, source) of all tokens, and which of them ends the caption (B,)."""
        x = self.proj_in(states)
        for layer in self.layers:
            x = layer(x, None)
        tokens = self.norm(x)
        return Cond(vector=self.pool(tokens[torch.arange(len(tokens), device=tokens.device), last]), tokens=tokens)
