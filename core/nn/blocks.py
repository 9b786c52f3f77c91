"""The parts of a U-Net: residual blocks with time, attention between positions, down- and upsampling.

All of them work over grids of one, two or three dimensions: a ``Style`` makes their layers and holds what they share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.nn.attention import attend, merge_heads, split_heads
from core.nn.upsampling import upsample_conv

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS: dict[int, type[Convolution]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True)
class Style:
    """What the blocks of a U-Net have in common."""

    dims: int = 2
    embedded: int = 512  # width of the embedding of time and condition
    groups: int = 32
    epsilon: float = 1e-5
    dropout: float = 0.0
    scale_shift: bool = False  # the embedding scales and shifts after the second norm (ADM), or is added before (DDPM)
    head_width: int | None = None  # channels of a head of attention; None for ``heads`` heads at every width
    heads: int = 1
    checkpointing: bool = False  # recompute blocks in the backward pass instead of keeping their activations

    def conv(self, channels: int, out: int, size: int = 3, stride: int = 1, pad: int | None = None) -> Convolution:
        """A convolution that keeps the grid's size unless it strides."""
        layer = CONVOLUTIONS[self.dims](channels, out, size, stride, size // 2 if pad is None else pad)
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return layer

    def norm(self, channels: int) -> nn.GroupNorm:
        """Group normalisation. Raises ValueError where the channels do not divide into groups."""
        if channels % self.groups:
            raise ValueError(f"{channels} channels do not divide into {self.groups} groups: change widths or groups")
        return nn.GroupNorm(self.groups, channels, eps=self.epsilon)

    def heads_of(self, channels: int) -> int:
        """How many heads attention over these channels has. Raises ValueError where the channels do not divide."""
        divisor = self.heads if self.head_width is None else self.head_width
        if channels % divisor:
            words = f"{self.heads} heads" if self.head_width is None else f"heads of {self.head_width}"
            raise ValueError(f"{channels} channels do not divide into {words}: change widths or heads")
        return self.heads if self.head_width is None else channels // self.head_width

    def spread(self, value: Tensor) -> Tensor:
        """(B, C) -> (B, C, 1, ...), to broadcast over the grid."""
        return value.view(*value.shape, *[1] * self.dims)


def silu(x: Tensor) -> Tensor:
    """SiLU; where no gradient is asked for, in the memory of x, which must be the caller's own."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def zero(layer: nn.Module) -> nn.Module:
    """The same layer, starting at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Halve(nn.Module):
    """Averages of 2 x 2 values."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = POOLS[self.dims](x, 2)
        return halved


class Double(nn.Module):
    """Every value repeated."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Residual(nn.Module):
    """``x + conv(silu(norm(conv(silu(norm(x))) + time)))``; ``resample`` acts inside and on the skip connection
    (BigGAN)."""

    def __init__(self, style: Style, channels: int, out: int, resample: nn.Module | None = None) -> None:
        super().__init__()
        self.style = style
        self.norm1 = style.norm(channels)
        self.resample = resample
        self.conv1 = style.conv(channels, out)
        self.time = nn.Linear(style.embedded, 2 * out if style.scale_shift else out)
        self.norm2 = style.norm(out)
        self.conv2 = zero(style.conv(out, out))
        self.skip = style.conv(channels, out, size=1) if channels != out else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, channels, *grid), embedding (B, embedded) already activated -> (B, out, *grid)."""
        return self.with_time(x, self.time(embedding))

    def with_time(self, x: Tensor, time: Tensor) -> Tensor:
        """The block, given its projection of the embedding: (B or 1, out), or twice as wide."""
        h = self._first(silu(self.norm1(x)))
        x = x if self.resample is None else self.resample(x)
        time = self.style.spread(time)
        if self.style.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + time)
        h = self.conv2(F.dropout(silu(h), self.style.dropout, self.training))
        return h + (x if self.skip is None else self.skip(x))

    def _first(self, h: Tensor) -> Tensor:
        """The first convolution, of the map as it is resampled."""
        if isinstance(self.resample, Double):
            return upsample_conv(h, self.conv1)
        out: Tensor = self.conv1(h if self.resample is None else self.resample(h))
        return out


class Attention(nn.Module):
    """Self-attention between all positions of a grid."""

    def __init__(self, style: Style, channels: int) -> None:
        super().__init__()
        self.heads = style.heads_of(channels)
        self.norm = style.norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)  # rows [q; k; v]
        self.project = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *grid) -> (B, C, *grid)."""
        positions = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, C)
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(positions).chunk(3, dim=-1))
        h = self.project(merge_heads(attend(query, key, value)))
        return x + h.transpose(1, 2).reshape(x.shape)


class Block(nn.Module):
    """A residual block, and attention after it where its level has some."""

    def __init__(self, style: Style, channels: int, out: int, attention: bool) -> None:
        super().__init__()
        self.residual = Residual(style, channels, out)
        self.attention = Attention(style, out) if attention else None
        self.checkpointing = style.checkpointing

    def run(self, x: Tensor, embedding: Tensor) -> Tensor:
        h: Tensor = self.residual(x, embedding)
        return h if self.attention is None else self.attention(h)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.checkpointing and self.training:
            found: Tensor = checkpoint(self.run, x, embedding, use_reentrant=False)
            return found
        return self.run(x, embedding)


class StridedDown(nn.Module):
    """A convolution of stride 2; ``asymmetric`` pads one value at the far ends only, as DDPM's code does."""

    def __init__(self, style: Style, channels: int, asymmetric: bool) -> None:
        super().__init__()
        self.conv = style.conv(channels, channels, stride=2, pad=0 if asymmetric else 1)
        self.pad = (0, 1) * style.dims if asymmetric else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h: Tensor = self.conv(x if self.pad is None else F.pad(x, self.pad))
        return h


class RepeatedUp(nn.Module):
    """Every value repeated, then a convolution."""

    def __init__(self, style: Style, channels: int) -> None:
        super().__init__()
        self.conv = style.conv(channels, channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return upsample_conv(x, self.conv)
