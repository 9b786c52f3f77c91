"""The U-Net of DDPM and of ADM, in one, two or three dimensions (2006.11239, appendix B; 2105.05233, section 3).

Levels of residual blocks go down to coarse grids and up again; every feature map on the way down is handed over to the
block on the way up. Time and a condition's vector, embedded and summed, enter each residual block. The two papers
differ in how (added, or as scale and shift), in how grids are resampled, and in how many heads attention has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.blocks import Block, Double, Halve, RepeatedUp, Residual, StridedDown, Style, zero
from core.nn.embeddings import sinusoid


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
    head_width:   channels of a head of attention, or None for ``heads`` heads at every width
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
        heads: int = 1,
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
            dims, self.embedded, groups, epsilon, dropout, scale_shift, head_width, heads, checkpointing
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
        """time: (B,). Raises ValueError where x or the condition does not fit the network (see ``check``)."""
        self.check(x, cond)
        embedding = F.silu(self.embed(time, cond).to(x.dtype))
        states = [self.conv_in(x if cond.concat is None else torch.cat([x, cond.concat], dim=1))]
        for level in self.down:
            states += level(states[-1], embedding)
        h = self.middle(states[-1], embedding)
        for level in self.up:
            h = level(h, states, embedding)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out

    def check(self, x: Tensor, cond: Cond) -> None:
        """Raises ValueError for other channels or dimensions, and for a grid that does not halve at every level."""
        joined = 0 if cond.concat is None else cond.concat.shape[1]
        if x.ndim != self.style.dims + 2 or x.shape[1] + joined != self.in_channels:
            raise ValueError(
                f"x {tuple(x.shape)} with {joined} channels joined to it: this network takes {self.in_channels} "
                f"channels over a grid of {self.style.dims} dimensions"
            )
        if cond.vector is not None and cond.vector.shape[-1] != self.embedded:
            raise ValueError(
                f"a condition of width {cond.vector.shape[-1]} for an embedding of width {self.embedded}: "
                "give the conditioner the network's ``embedded``"
            )
        step = 2 ** (self.levels - 1)
        if any(length % step for length in x.shape[2:]):
            raise ValueError(
                f"a grid of {tuple(x.shape[2:])} does not halve {self.levels - 1} times: pad it to a multiple of {step}"
            )

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
    head_width: int | None = 64,
    heads: int = 1,
) -> UNet:
    """ADM's network for images of a size: attention at 32, 16 and 8, in heads of 64 (2105.05233, section 3)."""
    return UNet(
        channels,
        2 * channels if learned_variance else channels,
        width,
        multipliers,
        blocks,
        [level for level in range(len(multipliers)) if size >> level in (32, 16, 8)],
        dropout=dropout,
        head_width=head_width,
        heads=heads,
        scale_shift=True,
        biggan=True,
    )


def adm_64() -> UNet:
    """ADM for ImageNet 64 x 64 without its class table: 295.9M parameters with it (2105.05233, appendix I)."""
    return adm(64, 192, (1, 2, 3, 4), 3, dropout=0.1)


def adm_128() -> UNet:
    """ADM for ImageNet 128 x 128, four heads everywhere, without its class table: 422M parameters with it (ibid.)."""
    return adm(128, 256, (1, 1, 2, 3, 4), 2, head_width=None, heads=4)


def adm_256() -> UNet:
    """ADM for ImageNet 256 x 256 without its class table: 553.8M parameters with it (2105.05233, appendix I)."""
    return adm(256, 256, (1, 1, 2, 2, 4, 4), 2)


def adm_512() -> UNet:
    """ADM for ImageNet 512 x 512, whose finest level is half as wide as its time features: 559M with its table."""
    return adm(512, 256, (0.5, 1, 1, 2, 2, 4, 4), 2)
