"""The blocks of NCSN++: BigGAN's residual block that resamples inside, and one-head attention (2011.13456, appendix H).

    x = (resample(x) + conv(act(norm(conv(resample(act(norm(x)))) + Linear(act(c)))))) / sqrt(2)

Every sum of two is divided by sqrt(2), and the last convolution of a block starts at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.attention import attend

HALF_POWER = 1 / math.sqrt(2)  # keeps the variance of a sum of two equals


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with at least 4 channels a group and at most 32 groups."""
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def initialise(layer: nn.Linear | nn.Conv2d, scale: float = 1.0) -> None:
    """Uniform weights of variance ``scale`` over the mean of fan in and fan out; biases zero (0 means 1e-10)."""
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale or 1e-10))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def conv(channels: int, out: int, size: int = 3, scale: float = 1.0) -> nn.Conv2d:
    """A convolution that keeps the image's size."""
    layer = nn.Conv2d(channels, out, size, padding=size // 2)
    initialise(layer, scale)
    return layer


class Residual(nn.Module):
    """BigGAN's residual block; ``resample`` halves or doubles the image inside and on the shortcut."""

    def __init__(
        self,
        channels: int,
        out: int,
        embedded: int,
        dropout: float,
        resample: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = norm(channels)
        self.conv1 = conv(channels, out)
        self.time = nn.Linear(embedded, out)
        initialise(self.time)
        self.norm2 = norm(out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(out, out, scale=0.0)
        self.skip = conv(channels, out, 1) if resample is not None or channels != out else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, channels, H, W), embedding (B, embedded) already activated -> (B, out, H', W')."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h) + self.time(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return ((x if self.skip is None else self.skip(x)) + h) * HALF_POWER


class Attention(nn.Module):
    """Self-attention of one head between the pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)  # rows [q; k; v]
        self.project = nn.Linear(channels, channels)
        initialise(self.qkv, scale=0.1)
        initialise(self.project, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # (B, H * W, C)
        query, key, value = self.qkv(pixels)[:, None].chunk(3, dim=-1)  # each (B, 1, H * W, C)
        h = self.project(attend(query, key, value)[:, 0])
        return (x + h.transpose(1, 2).reshape(x.shape)) * HALF_POWER
