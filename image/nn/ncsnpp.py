"""NCSN++ and DDPM++: the U-Nets of score-based diffusion (2011.13456, appendix H).

In addition to DDPM's U-Net: BigGAN residual blocks that resample inside, a smooth FIR filter, every sum divided by
sqrt(2), Fourier features of log sigma, and pyramids: the downsampled input enters every level of the encoder
(progressive input), and every level of the decoder may add to the output (progressive output).

The network never divides by sigma: that is the work of a prediction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.embeddings import RandomFourier, sinusoid
from image.nn.biggan import HALF_POWER, Attention, Residual, conv, initialise, norm
from image.nn.fir import BOX, FIR, Resampling, fir_blur


class LogFourier(RandomFourier):
    """Fixed random Fourier features of log sigma: (B,) -> (B, 2 * half)."""

    def __init__(self, half: int, scale: float = 16.0) -> None:
        super().__init__(half, scale)
        self.width = 2 * half

    def forward(self, sigma: Tensor) -> Tensor:
        return super().forward(sigma.log())


class Positional(nn.Module):
    """DDPM's sinusoids of a time index, sines first: (B,) -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, time: Tensor) -> Tensor:
        return sinusoid(time, self.width, cos_first=False, shift=1.0)


class InputSkip(nn.Module):
    """Progressive input: adds the downsampled input to a level through a 1 x 1 convolution."""

    def __init__(self, pyramid: int, channels: int, down: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.channels = pyramid  # of the pyramid that it returns
        self.down = down
        self.project = conv(pyramid, channels, 1)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """(pyramid twice h's size, h) -> (pyramid of h's size, h plus its projection)."""
        pyramid = self.down(pyramid)
        return pyramid, self.project(pyramid) + h


class InputResidual(nn.Module):
    """Progressive input: downsamples the input by strided convolutions and adds it to each level."""

    def __init__(self, pyramid: int, channels: int, down: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.channels = channels
        self.project = nn.Conv2d(pyramid, channels, 3, stride=2)  # halves behind the filter, so ``down`` has no work
        initialise(self.project)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """(pyramid twice h's size, h) -> the same tensor as the new pyramid and the new h."""
        h = (self.project(fir_blur(pyramid)) + h) * HALF_POWER
        return h, h


class OutputSkip(nn.Module):
    """A level's contribution to the output."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.conv = conv(channels, out, scale=0.0)

    def forward(self, h: Tensor) -> Tensor:
        output: Tensor = self.conv(F.silu(self.norm(h)))
        return output


class Encoder(nn.Module):
    """One level of the encoder: residual blocks, optional attention after each, optional downsampling."""

    def __init__(
        self,
        blocks: list[Residual],
        attentions: list[Attention],
        down: Residual | None,
        progressive_input: InputSkip | InputResidual | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.down = down
        self.progressive_input = progressive_input

    def forward(self, h: Tensor, pyramid: Tensor, embedding: Tensor) -> tuple[list[Tensor], Tensor]:
        """-> every state of the level, the last of which enters the next level, and the pyramid."""
        states = []
        for i, block in enumerate(self.blocks):
            h = block(h, embedding)
            if self.attentions:
                h = self.attentions[i](h)
            states.append(h)
        if self.down is not None:
            h = self.down(h, embedding)
            if self.progressive_input is not None:
                pyramid, h = self.progressive_input(pyramid, h)
            states.append(h)
        return states, pyramid


class Decoder(nn.Module):
    """One level of the decoder: residual blocks on the encoder's states, optional attention, output and upsampling."""

    def __init__(
        self, blocks: list[Residual], attention: Attention | None, output_skip: OutputSkip | None, up: Residual | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = attention
        self.output_skip = output_skip
        self.up = up

    def forward(self, h: Tensor, states: list[Tensor], embedding: Tensor) -> tuple[Tensor, Tensor | None]:
        """Consumes ``states`` from their end -> (the next level's input, this level's output)."""
        for block in self.blocks:
            h = block(torch.cat([h, states.pop()], dim=1), embedding)
        if self.attention is not None:
            h = self.attention(h)
        output = None if self.output_skip is None else self.output_skip(h)
        return (h if self.up is None else self.up(h, embedding)), output


class NCSNpp(nn.Module):
    """A score network on images (B, C, H, W); ``features`` embed its ``time``."""

    def __init__(
        self,
        features: LogFourier | Positional,
        widths: tuple[int, ...],
        depth: int,
        attention: tuple[int, ...],
        resampling: Resampling,
        progressive_input: type[InputSkip] | type[InputResidual] | None = None,
        progressive: bool = False,
        channels: int = 3,
        dropout: float = 0.0,
        centre: bool = False,
    ) -> None:
        """widths: channels of each level; depth: blocks a level; attention: the levels (0 is the finest) that have it.

        progressive_input: how the input enters every level of the encoder; progressive: every level adds to the
        output, not only the finest; centre: map data in [0, 1] to [-1, 1] first.
        """
        super().__init__()
        self.features = features
        self.resampling = resampling
        self.centre = centre
        self.widths, self.depth, self.attention, self.dropout = widths, depth, attention, dropout
        embedded = 4 * widths[0]
        self.embed1, self.embed2 = nn.Linear(features.width, embedded), nn.Linear(embedded, embedded)
        initialise(self.embed1)
        initialise(self.embed2)
        self.enter = conv(channels, widths[0])

        def residual(narrow: int, wide: int, resample: Callable[[Tensor], Tensor] | None = None) -> Residual:
            return Residual(narrow, wide, embedded, dropout, resample)

        self.encoders = nn.ModuleList()
        width, pyramid, states = widths[0], channels, [widths[0]]
        for level, wide in enumerate(widths):
            blocks = [residual(width if i == 0 else wide, wide) for i in range(depth)]
            attentions = [Attention(wide) for _ in blocks if level in attention]
            last = level == len(widths) - 1
            skip = (
                progressive_input(pyramid, wide, resampling.down)
                if progressive_input is not None and not last
                else None
            )
            down = None if last else residual(wide, wide, resampling.down)
            self.encoders.append(Encoder(blocks, attentions, down, skip))
            width, pyramid = wide, pyramid if skip is None else skip.channels
            states += [wide] * (depth if last else depth + 1)

        self.middle = nn.ModuleList([residual(width, width), Attention(width), residual(width, width)])

        self.decoders = nn.ModuleList()  # from the coarsest level to the finest
        for level, wide in reversed(list(enumerate(widths))):
            blocks = [residual((width if i == 0 else wide) + states.pop(), wide) for i in range(depth + 1)]
            output_skip = OutputSkip(wide, channels) if progressive or level == 0 else None
            up = residual(wide, wide, resampling.up) if level else None
            self.decoders.append(Decoder(blocks, Attention(wide) if level in attention else None, output_skip, up))
            width = wide

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """x (B, C, H, W), time (B,) -> (B, C, H, W); cond.vector (B, 4 * widths[0]) is added to the embedded time.

        Raises ValueError when H or W cannot be halved once a level.
        """
        factor = 2 ** (len(self.encoders) - 1)
        if x.shape[-2] % factor or x.shape[-1] % factor:
            raise ValueError(f"image {tuple(x.shape[-2:])} cannot be halved at every level: use a multiple of {factor}")
        embedding = self.embed2(F.silu(self.embed1(self.features(time).to(x.dtype))))
        if cond.vector is not None:
            embedding = embedding + cond.vector
        embedding = F.silu(embedding)  # (B, 4 * widths[0])
        if self.centre:
            x = 2 * x - 1

        pyramid, states = x, [self.enter(x)]
        for encoder in self.encoders:
            reached, pyramid = encoder(states[-1], pyramid, embedding)
            states += reached

        before, attention, after = self.middle
        h = after(attention(before(states[-1], embedding)), embedding)

        image: Tensor | None = None
        for decoder in self.decoders:
            h, output = decoder(h, states, embedding)
            if output is not None:
                image = output if image is None else self.resampling.up(image) + output
        assert image is not None  # the finest level always has an output
        return image


def ncsnpp_cifar10(depth: int = 4) -> NCSNpp:
    """NCSN++ of CIFAR-10 (VE), time sigma, data in [0, 1]; ``depth=8`` is the deep variant (2011.13456)."""
    return NCSNpp(
        LogFourier(128),
        (128, 256, 256, 256),
        depth,
        (1,),
        FIR,
        progressive_input=InputResidual,
        dropout=0.1,
        centre=True,
    )


def ddpmpp_cifar10(depth: int = 4) -> NCSNpp:
    """DDPM++ of CIFAR-10 (VP, sub-VP), time 999 t, data in [-1, 1]; ``depth=8`` is the deep variant (2011.13456)."""
    return NCSNpp(Positional(128), (128, 256, 256, 256), depth, (1,), BOX, dropout=0.1)


def ncsnpp_256() -> NCSNpp:
    """NCSN++ of 256 x 256 images (VE), time sigma, data in [0, 1] (2011.13456)."""
    widths = (128, 128, 256, 256, 256, 256, 256)
    return NCSNpp(LogFourier(128), widths, 2, (4,), FIR, progressive_input=InputSkip, progressive=True, centre=True)
