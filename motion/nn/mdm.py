"""MDM: a transformer over the frames of a sequence that predicts x0 (2209.14916).

A frame is a token; time and condition are one more, ``e = mlp(time) + Linear(cond.vector)``, and each layer is
post-norm:

    x = norm(x + attention(x)),    x = norm(x + mlp(x))

The encoder puts e before the frames; the decoder reads it (or one for each word) by cross-attention; the recurrent
network has e concatenated to every frame. Time t is embedded as position t of the sinusoidal table, so it may be
fractional.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.attention import attend, merge_heads, split_heads
from core.nn.embeddings import memoize_by_time


def waves(places: Tensor, width: int) -> Tensor:
    """Sinusoids of positions (N,) -> (N, width), sines and cosines in turn (1706.03762, section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2, device=places.device) * (-math.log(10_000.0) / width))
    angles = places.float()[:, None] * rates  # (N, width / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def placed(frames: Tensor) -> Tensor:
    """Frames (B, T, D) with position embeddings added."""
    places = torch.arange(frames.shape[1], device=frames.device)
    return frames + waves(places, frames.shape[-1]).to(frames)


class Layer(nn.Module):
    """Self-attention and a GELU MLP, each followed by its norm; ``cross_attention`` adds cross-attention between.

    Dropout acts on what is added and inside the MLP.
    """

    def __init__(
        self, width: int, hidden: int, heads: int, dropout: float = 0.0, cross_attention: bool = False
    ) -> None:
        """Raises ValueError when the width does not divide into heads."""
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads: choose a multiple of {heads}")
        self.heads, self.dropout = heads, dropout
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.reader = (
            nn.Linear(width, 3 * width) if cross_attention else None
        )  # rows [q; k; v]; q of frames, k and v of words
        self.reader_project = nn.Linear(width, width) if cross_attention else None
        self.norm3 = nn.LayerNorm(width) if cross_attention else None
        for layer in (self.qkv, self.reader):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self, x: Tensor, valid: Tensor | None, words: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """x (B, N, D), valid (B, N), words (B, L, D), mask (B, L) -> (B, N, D)."""
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        x = self.norm1(x + self._drop(self.project(merge_heads(attend(query, key, value, valid)))))
        if self.norm3 is None:
            return self._mlp(x, self.norm2)
        assert words is not None
        return self._mlp(self.norm2(x + self._drop(self._cross_attention(x, words, mask))), self.norm3)

    def _cross_attention(self, x: Tensor, words: Tensor, mask: Tensor | None) -> Tensor:
        assert self.reader is not None and self.reader_project is not None
        width = x.shape[-1]
        query = F.linear(x, self.reader.weight[:width], self.reader.bias[:width])
        key, value = F.linear(words, self.reader.weight[width:], self.reader.bias[width:]).chunk(2, dim=-1)
        heads = [split_heads(part, self.heads) for part in (query, key, value)]
        found: Tensor = self.reader_project(merge_heads(attend(heads[0], heads[1], heads[2], mask)))
        return found

    def _mlp(self, x: Tensor, norm: nn.Module) -> Tensor:
        hidden: Tensor = norm(x + self._drop(self.contract(self._drop(F.gelu(self.expand(x))))))
        return hidden

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Body(nn.Module):
    """The layers: frames (B, T, D) and conditions (B, L, D) -> frames (B, T, D)."""

    concatenated = False  # whether the condition is concatenated to each frame before it is projected

    def forward(self, frames: Tensor, embedded: Tensor, mask: Tensor | None, valid: Tensor | None) -> Tensor:
        raise TypeError("a body of MDM is an Encoder, a Decoder or a Recurrent")


class Encoder(Body):
    """The conditions, then the frames, through layers of self-attention."""

    def __init__(self, width: int, hidden: int, depth: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = dropout
        self.layers = nn.ModuleList(Layer(width, hidden, heads, dropout) for _ in range(depth))

    def forward(self, frames: Tensor, embedded: Tensor, mask: Tensor | None, valid: Tensor | None) -> Tensor:
        count = embedded.shape[1]
        x = F.dropout(placed(torch.cat([embedded, frames], dim=1)), self.dropout, self.training)
        if valid is not None or mask is not None:
            cond_mask = torch.ones(embedded.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
            exists = torch.ones(frames.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
            valid = torch.cat([cond_mask, exists], dim=1)
        for layer in self.layers:
            x = layer(x, valid)
        return x[:, count:]


class Decoder(Body):
    """The frames, through layers with cross-attention to the conditions."""

    def __init__(self, width: int, hidden: int, depth: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = dropout
        self.layers = nn.ModuleList(Layer(width, hidden, heads, dropout, cross_attention=True) for _ in range(depth))

    def forward(self, frames: Tensor, embedded: Tensor, mask: Tensor | None, valid: Tensor | None) -> Tensor:
        x = F.dropout(placed(frames), self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, valid, embedded, mask)
        return x


class Recurrent(Body):
    """Gated recurrent units over the frames, from the first to the last: later frames never affect earlier ones."""

    concatenated = True

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, depth, batch_first=True)

    def forward(self, frames: Tensor, embedded: Tensor, mask: Tensor | None, valid: Tensor | None) -> Tensor:
        found: Tensor = self.gru(placed(frames))[0]
        return found


class MDM(nn.Module):
    """Sequences (B, T, features) of any length, with a body of any of the three kinds."""

    def __init__(self, features: int, width: int, body: Body, text_width: int | None = None, words: bool = False):
        """text_width: of cond.vector, or of cond.tokens where each of the ``words`` is a token of its own, which a
        linear layer brings to ``width``; None where the vector has that width already (actions) or there is none.
        """
        super().__init__()
        self.features, self.width, self.words = features, width, words
        self.body = body
        self.proj_in = nn.Linear(features + width if body.concatenated else features, width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.cond_proj = None if text_width is None else nn.Linear(text_width, width)
        self.proj_out = nn.Linear(width, features)

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """x (B, T, features), time (B,), cond.valid (B, T); the other slots as the constructor says."""
        return self.denoise(
            x, self.clock(time), self.embed_condition(cond), cond.mask if self.words else None, cond.valid
        )

    def prepare(self, cond: Cond) -> Callable[[Tensor, Tensor], Tensor]:
        """The network with its condition inside; embeddings are memoized by time."""
        embedded, mask, clock = (
            self.embed_condition(cond),
            cond.mask if self.words else None,
            memoize_by_time(self.clock),
        )
        return lambda x, time: self.denoise(x, clock(time), embedded, mask, cond.valid)

    def clock(self, time: Tensor) -> Tensor:
        """Times (B,) -> (B, 1, D)."""
        features = waves(time, self.width).to(self.first.weight)
        embedded: Tensor = self.second(F.silu(self.first(features)))
        return embedded[:, None]

    def embed_condition(self, cond: Cond) -> Tensor | None:
        """The condition of every frame, (B, L, D); None without one."""
        output = cond.tokens if self.words else cond.vector
        if output is None:
            return None
        wanted = self.width if self.cond_proj is None else self.cond_proj.in_features
        if output.shape[-1] != wanted:
            raise ValueError(f"a condition of width {output.shape[-1]}: this network takes {wanted}")
        output = output if self.cond_proj is None else self.cond_proj(output)
        return output if self.words else output[:, None]

    def denoise(
        self, x: Tensor, clock: Tensor, embedded: Tensor | None, mask: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        """The network, time and condition embedded; frames that are not ``valid`` (B, T) affect no other."""
        if valid is not None and valid.shape != x.shape[:2]:
            raise ValueError(f"valid mask of shape {tuple(valid.shape)} for frames {tuple(x.shape[:2])}")
        embedded = clock.expand(len(x), -1, -1) if embedded is None else embedded + clock
        if self.body.concatenated:
            x = torch.cat([x, embedded.expand(-1, x.shape[1], -1)], dim=-1)
        output: Tensor = self.proj_out(self.body(self.proj_in(x), embedded, mask, valid))
        return output


def mdm(features: int = 263, text_width: int | None = 512) -> MDM:
    """The published network of HumanML3D: 8 layers of width 512 and 4 heads (2209.14916, section 4)."""
    return MDM(features, 512, Encoder(512, 1024, 8, 4), text_width)
