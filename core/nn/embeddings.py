"""Embeddings of scalars and positions: sinusoids, random Fourier features, fixed N-d position tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


def memoize_by_time(make: Callable[[Tensor], T]) -> Callable[[Tensor], T]:
    """``make`` of times (B,), memoized for single times (): a sampler visits the same times for every batch."""
    found: dict[float, T] = {}

    def of(time: Tensor) -> T:
        if time.ndim:
            return make(time)
        moment = float(time)
        if moment not in found:
            found[moment] = make(time[None])
        return found[moment]

    return of


def sinusoid(
    value: Tensor, width: int, max_period: float = 10_000.0, cos_first: bool = True, shift: float = 0.0
) -> Tensor:
    """Sinusoidal features of a scalar: (B,) -> (B, width).

    Frequencies are ``max_period ** (-i / (half - shift))``. ADM, Stable Diffusion and DiT put the cosines first with
    ``shift=0``; DDPM puts the sines first with ``shift=1``. Odd widths are padded with a zero (1706.03762).
    """
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=value.device) / (half - shift)
    angles = value.float()[:, None] * torch.exp(-math.log(max_period) * exponent)  # (B, half)
    parts = [angles.cos(), angles.sin()] if cos_first else [angles.sin(), angles.cos()]
    if width % 2:
        parts.append(torch.zeros_like(angles[:, :1]))
    return torch.cat(parts, dim=-1)


class RandomFourier(nn.Module):
    """Fixed random Fourier features of a scalar: (B,) -> (B, 2 * half), sines first (2006.10739)."""

    def __init__(self, half: int, scale: float = 16.0) -> None:
        super().__init__()
        self.weight = nn.Buffer(torch.randn(half) * scale)

    def forward(self, value: Tensor) -> Tensor:
        angles = value[:, None] * self.weight[None, :] * (2 * math.pi)  # (B, half)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def sincos_positions(sizes: tuple[int, ...], width: int, max_period: float = 10_000.0, spacing: float = 1.0) -> Tensor:
    """Fixed sine-cosine table of an N-d grid: (prod(sizes), width), float32.

    Neighbours lie ``spacing`` apart. The width is shared equally between the axes; the last axis comes first, then the
    others in order, as in DiT's 2-D table (2212.09748). Raises ValueError when ``width`` does not divide by twice the
    number of axes.
    """
    axes = len(sizes)
    if width % (2 * axes):
        raise ValueError(f"position width {width} must be a multiple of {2 * axes} for a {axes}-d grid")
    half = width // axes // 2
    frequencies = max_period ** -(torch.arange(half, dtype=torch.float64) / half)
    grids = torch.meshgrid(*[spacing * torch.arange(size, dtype=torch.float64) for size in sizes], indexing="ij")
    ordered = [grids[-1], *grids[:-1]]
    angles = [grid.reshape(-1, 1) * frequencies for grid in ordered]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=-1).float()
