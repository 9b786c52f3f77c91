"""The U-Net of DDPM and of ADM, in one, two or three dimensions (2006.11239, appendix B; 2105.05233, section 3).

Levels of residual blocks go down to coarse grids and up again; every feature map on the way down is handed over to the
block on the way up. Time and a condition's vector, embedded and summed, enter each residual block. The two papers
differ in how (added, or as scale and shift), in how grids are resampled, and in how many heads attention has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.cond import Cond
from core.nn.attention import attend, merge_heads, split_heads
from core.nn.embeddings import sinusoid

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
    head_width: int | None = None  # of attention; None for a single head
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

    def spread(self, value: Tensor) -> Tensor:
        """(B, C) -> (B, C, 1, ...), to broadcast over the grid."""
        return value.view(*value.shape, *[1] * self.dims)


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
    """``x + conv(silu(norm(conv(silu(norm(x))) + time)))``; ``resample`` acts inside and on the way past (BigGAN)."""

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
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        time = self.style.spread(self.time(embedding))
        if self.style.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + time)
        h = self.conv2(F.dropout(F.silu(h), self.style.dropout, self.training))
        return h + (x if self.skip is None else self.skip(x))


class Attention(nn.Module):
    """Self-attention between all places of a grid."""

    def __init__(self, style: Style, channels: int) -> None:
        super().__init__()
        width = style.head_width or channels
        if channels % width:
            raise ValueError(f"{channels} channels do not divide into heads of {width}: change widths or heads")
        self.heads = channels // width
        self.norm = style.norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)  # rows [q; k; v]
        self.project = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *grid) -> (B, C, *grid)."""
        places = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, C)
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(places).chunk(3, dim=-1))
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
        h: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return h


class DownLevel(nn.Module):
    """The blocks of one grid size on the way down, and the step to the next; None on the coarsest."""

    def __init__(self, blocks: Sequence[Block], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample

    def forward(self, h: Tensor, embedding: Tensor) -> list[Tensor]:
        """Every feature map that is handed over; the last goes on."""
        states = []
        for block in self.blocks:
            h = block(h, embedding)
            states.append(h)
        if self.resample is not None:
            states.append(self.resample(h, embedding))
        return states


class UpLevel(nn.Module):
    """The blocks of one grid size on the way up, and the step to the next; None on the finest."""

    def __init__(self, blocks: Sequence[Block], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample

    def forward(self, h: Tensor, states: list[Tensor], embedding: Tensor) -> Tensor:
        """Consumes ``states`` from their end."""
        for block in self.blocks:
            h = block(torch.cat([h, states.pop()], dim=1), embedding)
        return h if self.resample is None else self.resample(h, embedding)


class Middle(nn.Module):
    """Residual block, attention, residual block on the coarsest grid."""

    def __init__(self, style: Style, channels: int, attention: bool) -> None:
        super().__init__()
        self.first = Block(style, channels, channels, attention)
        self.second = Block(style, channels, channels, False)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h: Tensor = self.second(self.first(x, embedding), embedding)
        return h


class UNet(nn.Module):
    """A U-Net over a grid of 1, 2 or 3 dimensions: (B, in_channels, *grid) -> (B, out_channels, *grid).

    width:        of the time features; level i is ``width * multipliers[i]`` channels wide
    attention:    the levels that have it, 0 the finest; ``middle_attention`` for the middle
    head_width:   channels of a head, None for a single head
    biggan:       resample by residual blocks (ADM), or by convolutions (DDPM)
    asymmetric:   how those convolutions are padded (see ``StridedDown``)
    cos_first, shift: of the time features (see ``sinusoid``)
    ``cond.vector`` (B, 4 width) is added to the embedding of time; ``cond.concat`` is joined to the channels of x.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 128,
        multipliers: Sequence[float] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (1,),
        *,
        dims: int = 2,
        dropout: float = 0.0,
        groups: int = 32,
        epsilon: float = 1e-5,
        head_width: int | None = None,
        scale_shift: bool = False,
        biggan: bool = False,
        asymmetric: bool = False,
        middle_attention: bool = True,
        cos_first: bool = True,
        shift: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.cos_first, self.shift = width, cos_first, shift
        self.embedded = 4 * width
        self.levels = len(multipliers)
        self.blocks, self.attention, self.middle_attention = blocks, tuple(attention), middle_attention
        self.biggan, self.asymmetric = biggan, asymmetric
        self.in_channels, self.out_channels = in_channels, out_channels
        self.style = style = Style(
            dims, self.embedded, groups, epsilon, dropout, scale_shift, head_width, checkpointing
        )
        self.widths = widths = [round(width * multiplier) for multiplier in multipliers]
        self.time = nn.Sequential(nn.Linear(width, self.embedded), nn.SiLU(), nn.Linear(self.embedded, self.embedded))
        self.conv_in = style.conv(in_channels, widths[0])

        self.down = nn.ModuleList()
        skips, channels = [widths[0]], widths[0]
        for level, out in enumerate(widths):
            made = []
            for _ in range(blocks):
                made.append(Block(style, channels, out, level in attention))
                channels = out
                skips.append(channels)
            last = level == self.levels - 1
            if not last:
                skips.append(channels)
            down = Residual(style, out, out, Halve(dims)) if biggan else StridedDown(style, out, asymmetric)
            self.down.append(DownLevel(made, None if last else down))

        self.middle = Middle(style, channels, middle_attention)

        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            made = []
            for _ in range(blocks + 1):
                made.append(Block(style, channels + skips.pop(), out, level in attention))
                channels = out
            up = Residual(style, out, out, Double()) if biggan else RepeatedUp(style, out)
            self.up.append(UpLevel(made, up if level else None))

        self.norm_out = style.norm(channels)
        self.conv_out = zero(style.conv(channels, out_channels))

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """time: (B,). Raises ValueError where the grid does not halve evenly at every level."""
        if any(length % 2 ** (self.levels - 1) for length in x.shape[2:]):
            step = 2 ** (self.levels - 1)
            raise ValueError(
                f"a grid of {tuple(x.shape[2:])} does not halve {self.levels - 1} times: pad it to {step}s"
            )
        embedding = F.silu(self.embed(time, cond).to(x.dtype))
        states = [self.conv_in(x if cond.concat is None else torch.cat([x, cond.concat], dim=1))]
        for level in self.down:
            states += level(states[-1], embedding)
        h = self.middle(states[-1], embedding)
        for level in self.up:
            h = level(h, states, embedding)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out

    def embed(self, time: Tensor, cond: Cond) -> Tensor:
        """The embedding (B, 4 width) of time, and of the condition's vector."""
        features = sinusoid(time, self.width, cos_first=self.cos_first, shift=self.shift)
        embedding: Tensor = self.time(features.to(self.conv_in.weight.dtype))
        return embedding if cond.vector is None else embedding + cond.vector


def ddpm_cifar10(dropout: float = 0.1) -> UNet:
    """DDPM's network for CIFAR-10: 35,746,307 parameters (2006.11239, appendix B)."""
    return UNet(
        3, 3, 128, (1, 2, 2, 2), 2, (1,), dropout=dropout, epsilon=1e-6, asymmetric=True, cos_first=False, shift=1.0
    )


def ddpm_256() -> UNet:
    """DDPM's network for 256 x 256 images: 113,673,219 parameters (2006.11239, appendix B)."""
    return UNet(3, 3, 128, (1, 1, 2, 2, 4, 4), 2, (4,), epsilon=1e-6, asymmetric=True, cos_first=False, shift=1.0)


def adm(
    size: int,
    width: int,
    multipliers: Sequence[float],
    blocks: int,
    dropout: float = 0.0,
    channels: int = 3,
    learned_variance: bool = True,
) -> UNet:
    """ADM's network for images of a size: attention at 32, 16 and 8 in heads of 64 (2105.05233, section 3)."""
    return UNet(
        channels,
        2 * channels if learned_variance else channels,
        width,
        multipliers,
        blocks,
        [level for level in range(len(multipliers)) if size >> level in (32, 16, 8)],
        dropout=dropout,
        head_width=64,
        scale_shift=True,
        biggan=True,
    )


def adm_64() -> UNet:
    """ADM for ImageNet 64 x 64 without its class table: 295.9M parameters with it (2105.05233, appendix I)."""
    return adm(64, 192, (1, 2, 3, 4), 3, dropout=0.1)


def adm_256() -> UNet:
    """ADM for ImageNet 256 x 256 without its class table: 553.8M parameters with it (2105.05233, appendix I)."""
    return adm(256, 256, (1, 1, 2, 2, 4, 4), 2)


def adm_512() -> UNet:
    """ADM for ImageNet 512 x 512, whose finest level is half as wide as its time features: 559M with its table."""
    return adm(512, 256, (0.5, 1, 1, 2, 2, 4, 4), 2)
