"""Flux: text and image tokens in one attention, first as two streams, then as one (Black Forest Labs, 2024).

    image = Linear(patches of [x, concat]);  text = Linear(tokens)
    c = embed(time) + embed(guidance) + embed(vector)
    double blocks: each stream its own modulations by c, QKV and MLP; one attention over [text, image]
    single blocks: h = h + gate * Linear([attention(q, k, v), gelu(m)]),  q, k, v, m = Linear(modulated norm of h)
    out = patches folded back from Linear(modulated norm of the image tokens)

Queries and keys are RMS-normalised and then turned by the coordinates (0, row, column) of their patch; text lies at the
origin. A patch is p x p places, its channels in the order (channel, row, column).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.attention import attend, merge_heads
from core.nn.chunking import chunked
from core.nn.dit import TimeEmbedding, linear, modulate
from core.nn.embeddings import memoize_by_time
from core.nn.patchify import patchify, unpatchify
from core.nn.rope import grid_coordinates, rotate, rotations

EPSILON = 1e-6  # of every norm
GUIDANCE_UNITS = 1000.0  # what the network embeds is 1000 g, as its time is 1000 t

M = TypeVar("M", bound=nn.Module)
Modulation = tuple[Tensor, ...]  # of a norm and what follows it: shift, 1 + scale, gate (B, 1, D)

TOKENS = 128  # that pass a perceptron at once while sampling


class Modulations(NamedTuple):
    """The modulations of every layer; a function of time, guidance and vector only, so they can be cached."""

    doubles: list[tuple[Modulation, Modulation]]  # text and image: shift, 1 + scale, gate of attention, then of MLP
    singles: list[Modulation]
    last: Modulation  # shift, 1 + scale


class EncodedCond(NamedTuple):
    """The part of a condition's encoding that depends neither on x nor on time."""

    text: Tensor  # (B, L, D)
    embedded: Tensor  # (B, D), of guidance and vector
    concat: Tensor | None  # (B, C', H, W)
    mask: Tensor | None  # (B, L)


def listed(modules: Iterable[M]) -> list[M]:
    """An ``nn.ModuleList`` that a type checker sees as the list of its modules."""
    return cast(list[M], nn.ModuleList(modules))


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form; where no gradient is asked for, in the memory of x, which must be the caller's own."""
    if torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    # Fresh memory, four times as wide as the tokens, costs more than the arithmetic.
    done: Tensor = torch.ops.aten.gelu_(x, approximate="tanh")
    return done


class VectorEmbedding(nn.Module):
    """Two layers about a SiLU, for the pooled text: (B, vector) -> (B, width)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, width)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, vector: Tensor) -> Tensor:
        embedding: Tensor = self.second(F.silu(self.first(vector)))
        return embedding


class Projection(nn.Module):
    """Queries and keys, normalised and scaled, and values of tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width)  # rows [q; k; v]
        self.scale = nn.Parameter(torch.ones(2, width // heads))  # of the queries and of the keys

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, N, D) -> queries and keys (B, N, 2, heads, d), values (B, N, heads, d)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, d)
        normed = F.rms_norm(qkv[:, :, :2], qkv.shape[-1:], eps=EPSILON)
        return normed * self.scale[:, None], qkv[:, :, 2]


def rotary_attention(pair: Tensor, value: Tensor, turns: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of queries and keys (B, N, 2, heads, d) at their places and values (B, N, heads, d): (B, N, D)."""
    query, key = rotate(pair, turns).permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
    return merge_heads(attend(query, key, value.transpose(1, 2), mask))


class Stream(nn.Module):
    """The layers of text or image in a double block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulator = linear(width, 6 * width, gain=0.0)
        self.attention = Projection(width, heads)
        self.project = linear(width, width)
        self.expand = linear(width, 4 * width)
        self.contract = linear(4 * width, width)

    def project_qkv(self, x: Tensor, modulation: Modulation) -> tuple[Tensor, Tensor]:
        """Queries and keys, and values, of x (B, N, D)."""
        shift, scale, *_ = modulation
        pair: tuple[Tensor, Tensor] = self.attention(modulate(x, shift, scale, EPSILON))
        return pair

    def residual(self, x: Tensor, attended: Tensor, modulation: Modulation) -> Tensor:
        """x (B, N, D) after the attention's output (B, N, D) and the MLP are added."""
        _, _, gate, shift, scale, last_gate = modulation
        x = torch.addcmul(x, gate, self.project(attended))
        normed = modulate(x, shift, scale, EPSILON)
        return torch.addcmul(x, last_gate, chunked(self.mlp, TOKENS, normed))

    def mlp(self, normed: Tensor) -> Tensor:
        """The MLP: (B, N, D) -> (B, N, D)."""
        hidden: Tensor = self.contract(gelu(self.expand(normed)))
        return hidden


class DoubleBlock(nn.Module):
    """Two streams with one joint attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.text, self.image = Stream(width, heads), Stream(width, heads)

    def forward(
        self, text: Tensor, image: Tensor, modulation: tuple[Modulation, Modulation], turns: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """text (B, L, D), image (B, N, D), turns of [text, image], mask (B, L + N) -> the two streams."""
        parts = self.meet(text, image, modulation, turns, mask).split([text.shape[1], image.shape[1]], dim=1)
        # Contiguous, or the projections would multiply first and add their biases in a second pass.
        by_text, by_image = (part.contiguous() for part in parts)
        return self.text.residual(text, by_text, modulation[0]), self.image.residual(image, by_image, modulation[1])

    def meet(
        self, text: Tensor, image: Tensor, modulation: tuple[Modulation, Modulation], turns: Tensor, mask: Tensor | None
    ) -> Tensor:
        """The joint attention over [text, image]: (B, L + N, D)."""
        projected = zip(self.text.project_qkv(text, modulation[0]), self.image.project_qkv(image, modulation[1]))
        pair, value = (torch.cat(parts, dim=1) for parts in projected)
        return rotary_attention(pair, value, turns, mask)


class SingleBlock(nn.Module):
    """Attention and MLP in parallel, over text and image as one sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulator = linear(width, 3 * width, gain=0.0)
        self.attention = Projection(width, heads)
        self.expand = linear(width, 4 * width)
        self.proj_out = linear(5 * width, width)  # columns [attention, MLP]

    def forward(self, x: Tensor, modulation: Modulation, turns: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, L + N, D) -> the same."""
        shift, scale, gate = modulation
        normed = modulate(x, shift, scale, EPSILON)
        attended = self.attend_to_all(normed, turns, mask)
        return torch.addcmul(x, gate, chunked(self.add, TOKENS, normed, attended))

    def add(self, normed: Tensor, attended: Tensor) -> Tensor:
        """The block's residual, of tokens and of the attention's output: both (B, N, D) -> (B, N, D)."""
        added: Tensor = self.proj_out(torch.cat([attended, gelu(self.expand(normed))], dim=-1))
        return added

    def attend_to_all(self, normed: Tensor, turns: Tensor, mask: Tensor | None) -> Tensor:
        """Attention over all tokens: (B, L + N, D)."""
        pair, value = self.attention(normed)
        return rotary_attention(pair, value, turns, mask)


class Flux(nn.Module):
    """The Flux transformer over image-shaped latents."""

    def __init__(
        self,
        channels: int = 16,
        heads: int = 24,
        doubles: int = 19,
        singles: int = 38,
        text_width: int = 4096,
        vector_width: int = 768,
        axes: tuple[int, ...] = (16, 56, 56),
        patch: int = 2,
        guided: bool = True,
        concat_channels: int = 0,
    ) -> None:
        """axes: channels of a head for the index (0) and each axis of the grid; they add up to the width of a head.

        guided: the network has a guidance embedding (dev); vector_width 0 is a network without pooled
        text; concat_channels: those of ``cond.concat``, joined to x's (Fill, Canny, Depth).
        """
        super().__init__()
        self.width = width = heads * sum(axes)
        self.channels, self.patch, self.axes, self.heads = channels, patch, axes, heads
        cell = patch ** (len(axes) - 1)
        self.proj_in = linear((channels + concat_channels) * cell, width)
        self.text = linear(text_width, width)
        self.time = TimeEmbedding(width, 0.0)
        self.vector = VectorEmbedding(vector_width, width) if vector_width else None
        self.guidance = TimeEmbedding(width, 0.0) if guided else None
        if self.guidance is not None:
            # A new student of guidance begins as its teacher.
            nn.init.zeros_(self.guidance.second.weight)
        self.doubles = listed(DoubleBlock(width, heads) for _ in range(doubles))
        self.singles = listed(SingleBlock(width, heads) for _ in range(singles))
        self.last_modulator = linear(width, 2 * width, gain=0.0)
        self.readout = linear(width, channels * cell, gain=0.0)

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """x (B, C, *sizes), time (B,) = 1000 t, cond.tokens (B, L, text_width), and vector, guidance, concat, mask.

        Raises ValueError where the condition lacks what the network needs, or x does not cut into patches.
        """
        encoded = self.encode(cond)
        return self.denoise(x, self.modulations(time, encoded.embedded), encoded, self.position_embedding(x, encoded))

    def prepare(self, cond: Cond) -> Callable[[Tensor, Tensor], Tensor]:
        """The network with its condition inside; positions of a grid and modulations of a single time are kept."""
        encoded = self.encode(cond)
        position_embedding: dict[torch.Size, Tensor] = {}
        modulations = memoize_by_time(lambda time: self.modulations(time, encoded.embedded))

        def output_of(x: Tensor, time: Tensor) -> Tensor:
            if x.shape[2:] not in position_embedding:
                position_embedding[x.shape[2:]] = self.position_embedding(x, encoded)
            return self.denoise(x, modulations(time), encoded, position_embedding[x.shape[2:]])

        return output_of

    def encode(self, cond: Cond) -> EncodedCond:
        """The encoded condition, computed once for all times and all x."""
        if cond.tokens is None:
            raise ValueError("this network reads text: give it tokens (cond.tokens)")
        embedded = cond.tokens.new_zeros(len(cond.tokens), self.width)
        if self.vector is not None:
            if cond.vector is None:
                raise ValueError("this network needs a pooled text (cond.vector)")
            embedded = embedded + self.vector(cond.vector)
        if self.guidance is not None:
            if cond.guidance is None:
                raise ValueError("this network imitates guidance: tell it which (cond.guidance, 3.5 for Flux dev)")
            embedded = embedded + self.guidance(GUIDANCE_UNITS * cond.guidance.float())
        return EncodedCond(self.text(cond.tokens), embedded, cond.concat, cond.mask)

    def cut(self, x: Tensor, concat: Tensor | None) -> Tensor:
        """The patches of x joined with ``cond.concat``: (B, N, features)."""
        patches = patchify(x if concat is None else torch.cat([x, concat.to(x.dtype)], dim=1), self.patch)
        if patches.shape[-1] != self.proj_in.in_features:
            cell = self.patch ** (x.ndim - 2)
            expected = self.proj_in.in_features // cell - self.channels
            raise ValueError(
                f"patches of {patches.shape[-1]} numbers, not {self.proj_in.in_features}: this network takes x of "
                f"{self.channels} channels and {expected} channels of cond.concat"
            )
        return patches

    def position_embedding(self, x: Tensor, encoded: EncodedCond) -> Tensor:
        """The turns of text and patches: (L + N, d / 2, 2)."""
        grid = grid_coordinates([size // self.patch for size in x.shape[2:]])
        if grid.shape[1] != len(self.axes) - 1:
            raise ValueError(f"x has {grid.shape[1]} axes: this network is made for {len(self.axes) - 1}")
        patches = F.pad(grid, (1, 0))  # (N, axes), the first coordinate 0
        text = patches.new_zeros(encoded.text.shape[1], patches.shape[1])
        return rotations(torch.cat([text, patches]), self.axes).to(x.device)

    def modulations(self, time: Tensor, embedded: Tensor) -> Modulations:
        """Everything that depends on time (B,) or (1,) and on the embedded condition (B, D) only."""
        active = F.silu(self.time(time) + embedded)[:, None]  # (B, 1, D)
        doubles = [
            (_ready(block.text.modulator(active), 6), _ready(block.image.modulator(active), 6))
            for block in self.doubles
        ]
        singles = [_ready(block.modulator(active), 3) for block in self.singles]
        return Modulations(doubles, singles, _ready(self.last_modulator(active), 2))

    def denoise(self, x: Tensor, modulations: Modulations, encoded: EncodedCond, turns: Tensor) -> Tensor:
        """The network, given all that does not depend on x: x (B, C, *sizes) -> (B, C, *sizes)."""
        text, image = encoded.text, self.proj_in(self.cut(x, encoded.concat))
        length, mask = text.shape[1], encoded.mask
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(image.shape[:2])], dim=1)
        for double, double_modulation in zip(self.doubles, modulations.doubles):
            text, image = double(text, image, double_modulation, turns, mask)
        tokens = torch.cat([text, image], dim=1)
        for single, single_modulation in zip(self.singles, modulations.singles):
            tokens = single(tokens, single_modulation, turns, mask)
        shift, scale = modulations.last
        output = self.readout(modulate(tokens[:, length:], shift, scale, EPSILON))  # (B, N, features)
        return unpatchify(output, self.patch, x.shape[2:])


def _ready(output: Tensor, count: int) -> Modulation:
    """shift, scale, gate, ... -> shift, 1 + scale, gate, ..."""
    parts = output.chunk(count, dim=-1)
    return tuple(1 + part if i % 3 == 1 else part for i, part in enumerate(parts))


def flux_dev() -> Flux:
    """FLUX.1 dev, with a guidance embedding."""
    return Flux()


def flux_schnell() -> Flux:
    """FLUX.1 schnell, without one."""
    return Flux(guided=False)
