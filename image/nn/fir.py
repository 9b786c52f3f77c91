"""FIR resampling: halve or double an image behind the smooth filter [1, 3, 3, 1], instead of by boxes.

Downsampling is ``(x * k)[::2]`` and upsampling ``4 (zeros between x) * k``, where ``*`` convolves over an image that is
zero outside and k is the outer product of [1, 3, 3, 1] / 8 with itself (1912.04958; 2011.13456, appendix H).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def _kernel(x: Tensor) -> Tensor:
    # Made where x is, without a copy from the host; one filter a channel.
    taps = F.pad(x.new_full((2,), 3.0), (1, 1), value=1.0) / 8
    return torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)  # (C, 1, 4, 4)


def fir_blur(x: Tensor) -> Tensor:
    """Filter (B, C, H, W) -> (B, C, H + 1, W + 1), ready for a 3 x 3 convolution of stride 2 without padding."""
    return F.conv2d(x, _kernel(x), padding=2, groups=x.shape[1])


def fir_down(x: Tensor) -> Tensor:
    """Halve an image: (B, C, H, W) -> (B, C, H / 2, W / 2)."""
    return F.conv2d(x, _kernel(x), stride=2, padding=1, groups=x.shape[1])


def fir_up(x: Tensor) -> Tensor:
    """Double an image: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
    return F.conv_transpose2d(x, 4 * _kernel(x), stride=2, padding=1, groups=x.shape[1])


def box_down(x: Tensor) -> Tensor:
    """Halve an image by the mean of every 2 x 2 pixels."""
    return F.avg_pool2d(x, 2)


def box_up(x: Tensor) -> Tensor:
    """Double an image by repeating every pixel."""
    return F.interpolate(x, scale_factor=2.0)


class Resampling(NamedTuple):
    """How to halve and how to double an image."""

    down: Callable[[Tensor], Tensor]
    up: Callable[[Tensor], Tensor]


FIR = Resampling(fir_down, fir_up)
BOX = Resampling(box_down, box_up)
