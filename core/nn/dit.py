"""DiT: a transformer whose every normalisation is modulated by time and condition (adaLN-Zero, 2212.09748).

A front end makes tokens of the data; block i then computes, with c = embed(time) + cond.vector,

    shift, scale, gate, shift', scale', gate' = Linear_i(silu(c))
    x = x + gate  * attention(norm(x) * (1 + scale) + shift)
    x = x + gate' * mlp(norm(x) * (1 + scale') + shift')

and the front end folds the last tokens back into data. Linear_i starts at zero, so every block starts as the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.attention import attend, merge_heads
from core.nn.embeddings import sincos_positions, sinusoid

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TIME_FEATURES = 256


def linear(width: int, out: int, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    """A linear layer with Xavier weights times ``gain`` and zero biases."""
    layer = nn.Linear(width, out, bias=bias)
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Front(Protocol):
    """How data becomes tokens and tokens become data: a module, so that what it learns is learned with the rest."""

    width: int  # of a token
    features: int  # numbers that the transformer says about each token

    def __call__(self, x: Tensor) -> Tensor:
        """Data (B, ...) -> tokens (B, N, width)."""

    def token_mask(self, valid: Tensor) -> Tensor:
        """Which positions of the data are real -> which tokens are (B, N)."""

    def fold(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Output features (B, N, features) -> data laid out like x."""


class Patches(nn.Module):
    """Grids of any dimension (B, C, *size), cut into patches with fixed sine-cosine positions."""

    def __init__(
        self, size: tuple[int, ...], channels: int, width: int, patch: int, out_channels: int | None = None
    ) -> None:
        """size: the grid it is trained on; ``out_channels=2 * channels`` for a learned variance (2102.09672)."""
        super().__init__()
        if any(length % patch for length in size):
            raise ValueError(f"grid {size} does not divide into patches of {patch}: choose a multiple of {patch}")
        self.width, self.patch = width, patch
        self.out_channels = channels if out_channels is None else out_channels
        self.features = self.out_channels * patch ** len(size)
        self.tokens = tuple(length // patch for length in size)
        self.project = CONVOLUTIONS[len(size) - 1](channels, width, patch, stride=patch)
        self.positions = nn.Buffer(sincos_positions(self.tokens, width))
        nn.init.xavier_uniform_(self.project.weight.view(width, -1))
        nn.init.zeros_(self.project.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        if any(length % self.patch for length in x.shape[2:]):
            raise ValueError(f"grid {tuple(x.shape[2:])} does not divide into patches of {self.patch}: pad or crop it")
        patches = self.project(x)  # (B, width, *tokens)
        sizes = tuple(patches.shape[2:])
        # Another grid than the trained one is read at its own coordinates.
        positions = self.positions if sizes == self.tokens else sincos_positions(sizes, self.width).to(patches)
        # Contiguous here, or every block would drag the layout of the convolution along.
        return patches.flatten(2).transpose(1, 2).contiguous() + positions.to(patches.dtype)

    def token_mask(self, valid: Tensor) -> Tensor:
        return valid

    def fold(self, tokens: Tensor, x: Tensor) -> Tensor:
        axes, patch = x.ndim - 2, self.patch
        sizes = [length // patch for length in x.shape[2:]]
        cells = tokens.reshape(-1, *sizes, *[patch] * axes, self.out_channels)  # (B, *tokens, *patch, C)
        interleaved = [axis for pair in zip(range(1, 1 + axes), range(1 + axes, 1 + 2 * axes)) for axis in pair]
        return cells.permute(0, -1, *interleaved).reshape(-1, self.out_channels, *x.shape[2:])


class Points(nn.Module):
    """Sets of points (B, N, C): no positions, so the network is permutation equivariant."""

    def __init__(self, channels: int, width: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.width = width
        self.features = channels if out_channels is None else out_channels
        self.project = linear(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.project(x)
        return tokens

    def token_mask(self, valid: Tensor) -> Tensor:
        return valid

    def fold(self, tokens: Tensor, x: Tensor) -> Tensor:
        return tokens


class Sequence(Points):
    """Sequences (B, T, C) of any length: points with the sine-cosine position of their place.

    ``patch`` neighbours are one token, and the last token is filled up with zeros.
    """

    def __init__(self, channels: int, width: int, patch: int = 1) -> None:
        super().__init__(channels * patch, width)
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        tokens = super().forward(self._full(x).unflatten(1, (-1, self.patch)).flatten(2))
        return tokens + sincos_positions((tokens.shape[1],), self.width).to(tokens)

    def token_mask(self, valid: Tensor) -> Tensor:
        """A token is real where one of its positions is."""
        return self._full(valid).unflatten(1, (-1, self.patch)).any(-1)

    def fold(self, tokens: Tensor, x: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.patch, -1)).flatten(1, 2)[:, : x.shape[1]]

    def _full(self, x: Tensor) -> Tensor:
        spare = -x.shape[1] % self.patch
        return torch.cat([x, x.new_zeros(x.shape[0], spare, *x.shape[2:])], dim=1) if spare else x


@dataclass(frozen=True)
class Modulations:
    """The modulations of every layer; a function of time and condition only, so they can be cached."""

    blocks: list[tuple[Tensor, ...]]  # of each block: shift, 1 + scale, gate, shift', 1 + scale', gate' (B, 1, D)
    last: tuple[Tensor, Tensor]  # shift, 1 + scale (B, 1, D)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    """``norm(x) * scale + shift``: x (B, N, D), shift and scale (B, 1, D)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=epsilon), scale)


class Block(nn.Module):
    """Attention and a GELU-tanh MLP, both on the residual of their modulated input."""

    def __init__(self, width: int, heads: int, qkv_bias: bool, mlp_epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.mlp_epsilon = mlp_epsilon
        self.qkv = linear(width, 3 * width, bias=qkv_bias)  # rows [q; k; v]
        self.project = linear(width, width)
        self.expand = linear(width, 4 * width)
        self.contract = linear(4 * width, width)

    def forward(self, x: Tensor, modulation: tuple[Tensor, ...], valid: Tensor | None) -> Tensor:
        """x (B, N, D), six tensors (B, 1, D), valid (B, N) -> (B, N, D)."""
        return self.mlp(self.attention(x, modulation, valid), modulation)

    def attention(self, x: Tensor, modulation: tuple[Tensor, ...], valid: Tensor | None) -> Tensor:
        """The attention half of the block."""
        shift, scale, gate, *_ = modulation
        qkv = self.qkv(modulate(x, shift, scale, 1e-6)).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, d)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        return torch.addcmul(x, gate, self.project(merge_heads(attend(query, key, value, valid))))

    def mlp(self, x: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        """The MLP half of the block."""
        *_, shift, scale, gate = modulation
        hidden = F.gelu(self.expand(modulate(x, shift, scale, self.mlp_epsilon)), approximate="tanh")
        return torch.addcmul(x, gate, self.contract(hidden))


class TimeEmbedding(nn.Module):
    """256 sinusoids of time, cosines first, through a two-layer perceptron: (B,) -> (B, width)."""

    def __init__(self, width: int, shift: float) -> None:
        super().__init__()
        self.shift = shift
        self.first, self.second = nn.Linear(TIME_FEATURES, width), nn.Linear(width, width)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, time: Tensor) -> Tensor:
        features = sinusoid(time, TIME_FEATURES, shift=self.shift).to(self.first.weight.dtype)
        embedding: Tensor = self.second(F.silu(self.first(features)))
        return embedding


class DiT(nn.Module):
    """The diffusion transformer over whatever tokens its front end makes."""

    def __init__(
        self,
        front: Front,
        depth: int,
        heads: int,
        qkv_bias: bool = True,
        mlp_epsilon: float = 1e-6,
        frequency_shift: float = 0.0,
        embedders: int = 1,
    ) -> None:
        """``embedders`` is 1, or ``depth`` for a time embedding (and a slice of cond.vector) of each block's own.

        ``mlp_epsilon`` (of the norm before each MLP) and ``frequency_shift`` (of the time sinusoids) differ between
        published weights. Raises ValueError when the width does not divide into heads.
        """
        super().__init__()
        width = front.width
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads: choose a multiple of {heads}")
        if embedders not in (1, depth):
            raise ValueError(f"{embedders} time embedders cannot serve {depth} blocks: use 1 or {depth}")
        self.front = front
        self.heads, self.mlp_epsilon, self.frequency_shift = heads, mlp_epsilon, frequency_shift
        self.times = nn.ModuleList(TimeEmbedding(width, frequency_shift) for _ in range(embedders))
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias, mlp_epsilon) for _ in range(depth))
        self.modulators = nn.ModuleList(linear(width, 6 * width, gain=0.0) for _ in range(depth))
        self.last_modulator = linear(width, 2 * width, gain=0.0)
        self.readout = linear(width, front.features, gain=0.0)

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """x (B, ...) as the front end takes it, time (B,), cond.vector (B, embedders * width), cond.valid (B, N)."""
        return self.denoise(x, self.modulations(time, cond), cond.valid)

    def modulations(self, time: Tensor, cond: Cond = Cond()) -> Modulations:
        """Everything that depends on time (B,) and cond.vector only: compute it once where they do not change."""
        embedded = [embed(time) for embed in self.times]  # of (B, D)
        if cond.vector is not None:
            wanted = len(embedded) * self.front.width
            if cond.vector.shape[-1] != wanted:
                raise ValueError(f"condition vector of width {cond.vector.shape[-1]}: this network takes {wanted}")
            embedded = [e + part for e, part in zip(embedded, cond.vector.chunk(len(embedded), dim=-1))]
        active = [F.silu(e)[:, None] for e in embedded]  # of (B, 1, D)
        blocks: list[tuple[Tensor, ...]] = []
        for i, modulator in enumerate(self.modulators):
            shift, scale, gate, *mlp = modulator(active[i % len(active)]).chunk(6, dim=-1)
            blocks.append((shift, 1 + scale, gate, mlp[0], 1 + mlp[1], mlp[2]))
        shift, scale = self.last_modulator(active[0]).chunk(2, dim=-1)
        return Modulations(blocks, (shift, 1 + scale))

    def denoise(self, x: Tensor, modulations: Modulations, valid: Tensor | None = None) -> Tensor:
        """The network, given its modulations; tokens that are not ``valid`` (B, N) affect no other and their output is
        0."""
        tokens = self.front(x)
        valid = None if valid is None else self.front.token_mask(valid)
        if valid is not None and valid.shape != tokens.shape[:2]:
            raise ValueError(f"valid mask of shape {tuple(valid.shape)} for tokens {tuple(tokens.shape[:2])}")
        for block, modulation in zip(self.blocks, modulations.blocks):
            tokens = block(tokens, modulation, valid)
        output = self.readout(modulate(tokens, *modulations.last, 1e-6))  # (B, N, features)
        if valid is not None:
            output = output.masked_fill(~valid[..., None], 0)
        return self.front.fold(output, x)


def dit_s(patch: int = 2, size: int = 32, channels: int = 4) -> DiT:
    """DiT-S/2, /4 or /8 with learned variance, for latents of ``size`` (2212.09748, table 1)."""
    return DiT(Patches((size, size), channels, 384, patch, 2 * channels), depth=12, heads=6)


def dit_b(patch: int = 2, size: int = 32, channels: int = 4) -> DiT:
    """DiT-B/2, /4 or /8 with learned variance (2212.09748, table 1)."""
    return DiT(Patches((size, size), channels, 768, patch, 2 * channels), depth=12, heads=12)


def dit_l(patch: int = 2, size: int = 32, channels: int = 4) -> DiT:
    """DiT-L/2, /4 or /8 with learned variance (2212.09748, table 1)."""
    return DiT(Patches((size, size), channels, 1024, patch, 2 * channels), depth=24, heads=16)


def dit_xl(patch: int = 2, size: int = 32, channels: int = 4) -> DiT:
    """DiT-XL/2, /4 or /8 with learned variance (2212.09748, table 1)."""
    return DiT(Patches((size, size), channels, 1152, patch, 2 * channels), depth=28, heads=16)
