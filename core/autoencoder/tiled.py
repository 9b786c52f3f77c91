"""Decoding in bands: the same picture with less memory.

Where a grid is fine, the temporaries of a residual block (normalised, activated, unfolded for the convolution) are what
fills the memory. A band of rows at a time needs them for that band only. It is exact: group norms take their statistics
from the whole map first, and a convolution sees one row beyond its band on either side.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.autoencoder.net import Decoder, Double, Residual
from core.nn.upsampling import upsample_conv


def decode_in_bands(decoder: Decoder, z: Tensor, bands: int) -> Tensor:
    """What the decoder makes of z (B, C, *grid), computed in ``bands`` bands of the first axis of the grid.

    Raises ValueError when there are more bands than rows.
    """
    if not 1 <= bands <= z.shape[2]:
        raise ValueError(f"{bands} bands of a code with {z.shape[2]} rows: give 1 to {z.shape[2]}")
    h = decoder.middle(decoder.conv_in(z))
    for level in decoder.up:
        for block in level.blocks:
            h = residual(block, h, bands)
        if isinstance(level.resample, Double):
            h = double(level.resample, h, bands)
    return decoder.unfolded(over_bands(h, bands, normalised(decoder.norm_out, h), decoder.conv_out))


def residual(block: Residual, x: Tensor, bands: int) -> Tensor:
    """A residual block."""
    h = over_bands(x, bands, normalised(block.norm1, x), block.conv1)
    out = over_bands(h, bands, normalised(block.norm2, h), block.conv2)
    if block.skip is None:
        return out.add_(x)
    for first, last in cuts(x.shape[2], bands):
        out[:, :, first:last] += block.skip(x[:, :, first:last])
    return out


def double(layer: Double, x: Tensor, bands: int) -> Tensor:
    """Every value repeated, then the convolution: a band of x gives one of twice as many rows."""
    found: Tensor | None = None
    for first, last in cuts(x.shape[2], bands):
        low, high = max(first - 1, 0), min(last + 1, x.shape[2])
        part = upsample_conv(x[:, :, low:high], layer.conv)[:, :, 2 * (first - low) : 2 * (last - low)]
        if found is None:
            found = part.new_empty(*part.shape[:2], 2 * x.shape[2], *part.shape[3:])
        found[:, :, 2 * first : 2 * last] = part
    assert found is not None
    return found


def over_bands(x: Tensor, bands: int, before: Callable[[Tensor], Tensor], conv: nn.Module) -> Tensor:
    """``conv(before(x))`` for a pointwise ``before`` and a convolution that reaches one row to either side."""
    found: Tensor | None = None
    for first, last in cuts(x.shape[2], bands):
        low, high = max(first - 1, 0), min(last + 1, x.shape[2])
        part = conv(before(x[:, :, low:high]))[:, :, first - low : last - low]
        if found is None:
            found = part.new_empty(*part.shape[:2], x.shape[2], *part.shape[3:])
        found[:, :, first:last] = part
    assert found is not None
    return found


def normalised(norm: nn.GroupNorm, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Group norm and SiLU with the statistics of all of x, for any band of it."""
    groups = x.view(len(x), norm.num_groups, -1) if x.is_contiguous() else x.reshape(len(x), norm.num_groups, -1)
    variance, mean = torch.var_mean(groups, dim=2, correction=0)  # (B, groups)
    each = x.shape[1] // norm.num_groups
    scale = torch.rsqrt(variance + norm.eps).repeat_interleave(each, dim=1) * norm.weight  # (B, C)
    shift = norm.bias - mean.repeat_interleave(each, dim=1) * scale
    shape = (len(x), x.shape[1], *[1] * (x.ndim - 2))
    return lambda band: F.silu(torch.addcmul(shift.view(shape), band, scale.view(shape)), inplace=True)


def cuts(length: int, bands: int) -> list[tuple[int, int]]:
    """Where the bands begin and end, as even as can be."""
    edges = [length * index // bands for index in range(bands + 1)]
    return list(zip(edges, edges[1:]))
