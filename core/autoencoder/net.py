"""The two halves of an autoencoder over a grid of 1, 2 or 3 dimensions (2112.10752, appendix G).

    encode   conv, [residual x blocks, halve] ..., middle, norm, silu, conv      each level halves the grid once
    decode   conv, middle, [residual x (blocks + 1), double] ..., norm, silu, conv

The middle is residual, attention with one head, residual. Nothing here knows of noise or of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.blocks import Attention, Style, silu
from core.nn.upsampling import upsample_conv


@dataclass(frozen=True)
class Plan:
    """The sizes of an autoencoder.

    channels: of the data; latent: of the code; widths: channels of each level, finest first; blocks: residual blocks of
    a level of the encoder (the decoder has one more); quant: whether convolutions of size 1 lie on either side of the
    code; embedded: channels of the code between these convolutions, if they are other than ``latent`` (VQ); fold: the
    side of squares of pixels that become channels before the finest level, which is what costs most.
    """

    channels: int = 3
    latent: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    dims: int = 2
    groups: int = 32
    middle_attention: bool = True
    quant: bool = True
    embedded: int | None = None
    fold: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError for a fold of other than pictures."""
        if self.fold < 1 or (self.fold > 1 and self.dims != 2):
            raise ValueError("only grids of two dimensions are folded, by 1 or more")

    @property
    def factor(self) -> int:
        """How many places of the data share one of the code, along each axis."""
        return self.fold * 2 ** (len(self.widths) - 1)

    @property
    def folded(self) -> int:
        """Channels of the data at the finest level."""
        return self.channels * self.fold**self.dims

    @property
    def style(self) -> Style:
        """How the blocks are built."""
        return Style(self.dims, groups=self.groups, epsilon=1e-6)

    @property
    def code(self) -> int:
        """Channels of the code as it is diffused."""
        return self.embedded or self.latent


def sd_vae() -> Plan:
    """Stable Diffusion 1, 2 and SDXL: 83,653,863 parameters."""
    return Plan()


def sd3_vae() -> Plan:
    """Stable Diffusion 3 and Flux: 16 channels, nothing between encoder and code; 83,819,683 parameters."""
    return Plan(latent=16, quant=False)


def listed(modules: Sequence[nn.Module]) -> nn.ModuleList:
    """Modules as one."""
    return nn.ModuleList(modules)


class Residual(nn.Module):
    """``x + conv(silu(norm(conv(silu(norm(x))))))``."""

    def __init__(self, style: Style, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = style.norm(channels), style.conv(channels, out)
        self.norm2, self.conv2 = style.norm(out), style.conv(out, out)
        self.skip = style.conv(channels, out, size=1) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *grid) -> (B, out, *grid)."""
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return h + (x if self.skip is None else self.skip(x))


class Halve(nn.Module):
    """A convolution of stride 2, with one value of padding at the far ends only."""

    def __init__(self, style: Style, channels: int) -> None:
        super().__init__()
        self.conv = style.conv(channels, channels, stride=2, pad=0)
        self.pad = (0, 1) * style.dims

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(F.pad(x, self.pad))
        return h


class Double(nn.Module):
    """Every value repeated, then a convolution."""

    def __init__(self, style: Style, channels: int) -> None:
        super().__init__()
        self.conv = style.conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return upsample_conv(x, self.conv)


class Level(nn.Module):
    """The residual blocks of one grid size, and the step to the next; None at the end."""

    def __init__(self, blocks: Sequence[Residual], resample: Halve | Double | None) -> None:
        super().__init__()
        self.blocks = cast(list[Residual], nn.ModuleList(blocks))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.resample is None else self.resample(x)


class Middle(nn.Module):
    """Residual, attention between all places, residual."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        style, width = plan.style, plan.widths[-1]
        self.first = Residual(style, width, width)
        self.attention = Attention(style, width) if plan.middle_attention else None
        self.second = Residual(style, width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x if self.attention is None else self.attention(x)
        out: Tensor = self.second(x)
        return out


class Encoder(nn.Module):
    """Data (B, channels, *grid) -> (B, out, *grid / factor)."""

    def __init__(self, plan: Plan, out: int) -> None:
        super().__init__()
        self.plan = plan
        style, width = plan.style, plan.widths[0]
        self.conv_in = style.conv(plan.folded, width)
        levels = []
        for index, wide in enumerate(plan.widths):
            blocks = [Residual(style, width if number == 0 else wide, wide) for number in range(plan.blocks)]
            width = wide
            levels.append(Level(blocks, Halve(style, wide) if index < len(plan.widths) - 1 else None))
        self.down = listed(levels)
        self.middle = Middle(plan)
        self.norm_out = style.norm(width)
        self.conv_out = style.conv(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ValueError for data that do not fit the plan."""
        plan = self.plan
        if x.ndim != plan.dims + 2 or x.shape[1] != plan.channels:
            raise ValueError(
                f"data of shape {tuple(x.shape)}: this autoencoder takes {plan.channels} channels over {plan.dims} axes"
            )
        if any(length % plan.factor for length in x.shape[2:]):
            raise ValueError(f"a grid of {tuple(x.shape[2:])} does not divide by {plan.factor}: crop or pad it")
        h = self.conv_in(F.pixel_unshuffle(x, plan.fold) if plan.fold > 1 else x)
        for level in self.down:
            h = level(h)
        out: Tensor = self.conv_out(silu(self.norm_out(self.middle(h))))
        return out


class Decoder(nn.Module):
    """(B, latent, *grid) -> data (B, channels, *grid x factor)."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        style, width = plan.style, plan.widths[-1]
        self.conv_in = style.conv(plan.latent, width)
        self.middle = Middle(plan)
        levels = []
        for index, wide in reversed(list(enumerate(plan.widths))):
            blocks = [Residual(style, width if number == 0 else wide, wide) for number in range(plan.blocks + 1)]
            width = wide
            levels.append(Level(blocks, Double(style, wide) if index else None))
        self.up = cast(list[Level], listed(levels))
        self.norm_out = style.norm(width)
        self.conv_out = style.conv(width, plan.folded)

    def forward(self, z: Tensor) -> Tensor:
        # Channels last in memory: convolutions keep it so to the end, and are a sixth faster.
        z = z.contiguous(memory_format=torch.channels_last) if z.ndim == 4 else z
        h = self.middle(self.conv_in(z))
        for level in self.up:
            h = level(h)
        return self.unfolded(self.conv_out(silu(self.norm_out(h))))

    def unfolded(self, x: Tensor) -> Tensor:
        """The data, of what the last convolution makes."""
        return F.pixel_shuffle(x, self.plan.fold) if self.plan.fold > 1 else x
