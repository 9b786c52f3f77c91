"""Rotary positions on any number of axes, computed from coordinates (2104.09864).

The channels of a head are shared out between the axes, and within an axis they are pairs (2i, 2i + 1), each a complex
number that is turned by an angle that grows with the coordinate p on that axis:

    z_i  ->  z_i exp(j p theta^(-2i / width))

Turning both queries and keys so makes their product depend on the difference of their coordinates only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rotations(coordinates: Tensor, widths: Sequence[int], theta: float = 10_000.0) -> Tensor:
    """The turn of every pair of channels at every place: float32 (N, sum(widths) / 2, 2), cosine and sine.

    coordinates (N, axes) may be fractions; ``widths`` are the channels of each axis. The angles are computed in
    float64: in float32 they would be wrong by 1e-4 after a thousand places. Raises ValueError where axes do not fit.
    """
    if coordinates.shape[-1] != len(widths):
        raise ValueError(
            f"coordinates of {coordinates.shape[-1]} axes for widths {tuple(widths)}: give one width an axis"
        )
    if any(width % 2 for width in widths):
        raise ValueError(f"rotary widths {tuple(widths)} must be even: channels turn in pairs")
    angles = [
        place.cpu().double()[:, None] * theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        for place, width in zip(coordinates.unbind(-1), widths)
    ]  # of each axis (N, width / 2)
    angle = torch.cat(angles, dim=-1)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float().to(coordinates.device)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the channels of x (B, N, ..., heads, d) by turns (N, d / 2, 2) of its places, in float32, in x's dtype."""
    turns = turns.view(turns.shape[0], *[1] * (x.ndim - 3), *turns.shape[1:])  # (N, 1, ..., d / 2, 2)
    pairs = x.float().unflatten(-1, (-1, 2))  # (B, N, ..., heads, d / 2, 2)
    if torch.compiler.is_compiling():
        # The compiler fuses real arithmetic, and has no complex numbers.
        (even, odd), (cosine, sine) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return turned.flatten(-2).to(x.dtype)


def grid_coordinates(sizes: Sequence[int]) -> Tensor:
    """The whole coordinates of a grid's places in row-major order: (prod(sizes), axes), float32."""
    axes = torch.meshgrid(*[torch.arange(size, dtype=torch.float32) for size in sizes], indexing="ij")
    return torch.stack(axes, dim=-1).flatten(0, -2)
