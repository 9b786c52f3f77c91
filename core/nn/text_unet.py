"""The U-Net of Stable Diffusion: residual blocks with time, transformers with cross-attention to a text (2112.10752;
2307.01952).

    e   = MLP(sinusoids(time) + W sinusoids(guidance)) + what cond.vector adds
    h_i = transformer_i(residual_i(h, Linear_i(silu(e))), text)      down, middle, up, with every h_i handed over

One class serves Stable Diffusion 1 and 2, SDXL and its refiner, their inpainting, depth and upscaling kin, and LCM: a
``Plan`` holds what differs. What does not depend on x (the outputs of ``Linear_i``, the keys and values of the
text) is a ``BlockInputs``, made once a prompt and once a time by ``prepare``. ``UNetEncoder`` is also a ControlNet's
body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.cond import Cond
from core.nn.blocks import Residual, StridedDown, Style, silu, zero
from core.nn.embeddings import memoize_by_time, sinusoid
from core.nn.text_unet_plan import Plan
from core.nn.transformer2d import SpatialTransformer, TextKeyValue, listed
from core.nn.upsampling import upsample_conv


@dataclass(frozen=True)
class BlockInputs:
    """The inputs of the blocks besides x, in the order they are run; a function of time and condition only."""

    times: list[Tensor]  # (B or 1, out) each
    texts: list[list[list[TextKeyValue]]]  # of each block, of each of its transformer's layers
    mask: Tensor | None = None  # (B, L)
    concat: Tensor | None = None  # (B, C, *grid)

    def join(self, x: Tensor) -> Tensor:
        """x with the channels that the condition joins to it."""
        return x if self.concat is None else torch.cat([x, self.concat.to(x.dtype)], dim=1)


class TextBlock(nn.Module):
    """A residual block and, where ``depth`` is not 0, a transformer after it."""

    def __init__(self, plan: Plan, style: Style, channels: int, level: int, depth: int, cross_only: bool) -> None:
        super().__init__()
        out = plan.widths[level]
        self.residual = Residual(style, channels, out)
        self.transformer = (
            SpatialTransformer(style, out, plan.heads_at(level), depth, plan.text_width, cross_only) if depth else None
        )
        self.checkpointing = style.checkpointing

    def run(self, x: Tensor, time: Tensor, text: list[list[TextKeyValue]], mask: Tensor | None) -> Tensor:
        h = self.residual.with_time(x, time)
        return h if self.transformer is None else self.transformer(h, text, mask)

    def forward(self, x: Tensor, time: Tensor, text: list[list[TextKeyValue]], mask: Tensor | None) -> Tensor:
        """x (B, channels, *grid), the residual block's projection of time, and the transformer's text."""
        if self.checkpointing and self.training:
            found: Tensor = checkpoint(self.run, x, time, text, mask, use_reentrant=False)
            return found
        return self.run(x, time, text, mask)


class Enlarge(nn.Module):
    """Every value repeated to fill a grid of another size, then a convolution."""

    def __init__(self, style: Style, channels: int) -> None:
        super().__init__()
        self.conv = style.conv(channels, channels)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        if size == torch.Size(2 * length for length in x.shape[2:]):
            return upsample_conv(x, self.conv)
        h: Tensor = self.conv(F.interpolate(x, size=size, mode="nearest"))
        return h


class Level(nn.Module):
    """The blocks of one grid size, and the step to the next; None in the last."""

    def __init__(self, blocks: Sequence[TextBlock], resample: StridedDown | Enlarge | None) -> None:
        super().__init__()
        self.blocks = listed(blocks)
        self.resample = resample


class EmbeddingMLP(nn.Sequential):
    """Two linear layers with a SiLU between them."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(nn.Linear(width, out), nn.SiLU(), nn.Linear(out, out))


class UNetEncoder(nn.Module):
    """The encoder of a U-Net: embeddings, the levels from fine to coarse, and the middle."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.embedded = plan.embedded
        self.style = style = Style(
            plan.dims, plan.embedded, plan.groups, plan.epsilon, plan.dropout, checkpointing=plan.checkpointing
        )
        first, last = plan.widths[0], len(plan.widths) - 1
        self.time = EmbeddingMLP(first, plan.embedded)
        self.vector = None if plan.vector_width is None else EmbeddingMLP(plan.vector_width, plan.embedded)
        self.guidance = None if plan.guidance_width is None else nn.Linear(plan.guidance_width, first, bias=False)
        self.conv_in = style.conv(plan.in_channels, first)
        levels = []
        self.skips = [first]  # the width of everything that is handed over
        for level, out in enumerate(plan.widths):
            blocks = []
            for _ in range(plan.blocks):
                blocks.append(self.block(self.skips[-1], level))
                self.skips.append(out)
            if level < last:
                self.skips.append(out)
            levels.append(Level(blocks, StridedDown(style, out, asymmetric=False) if level < last else None))
        self.down = listed(levels)
        depths = (plan.middle_depth, 0)
        self.middle = listed(TextBlock(plan, style, plan.widths[-1], last, depth, False) for depth in depths)

    def block(self, channels: int, level: int) -> TextBlock:
        """A block of a level, for so many channels."""
        return TextBlock(self.plan, self.style, channels, level, self.plan.depths[level], level in self.plan.cross_only)

    def sequence(self) -> Iterator[TextBlock]:
        """The blocks in the order in which they are run."""
        for level in self.down:
            yield from level.blocks
        yield from self.middle

    def block_inputs(self, time: Tensor, cond: Cond) -> BlockInputs:
        """The block inputs for times (B,) and a condition. Raises ValueError for a condition that does not fit."""
        self.check_cond(cond)
        return BlockInputs(self.times(time, *self.embed(cond)), self.read_text(cond.tokens), cond.mask, cond.concat)

    def prepare_inputs(self, cond: Cond) -> Callable[[Tensor], BlockInputs]:
        """``block_inputs`` with the condition inside, embedded once; each time of a grid once too."""
        self.check_cond(cond)
        embedded, texts = self.embed(cond), self.read_text(cond.tokens)
        times = memoize_by_time(lambda time: self.times(time, *embedded))
        return lambda time: BlockInputs(times(time), texts, cond.mask, cond.concat)

    def check_cond(self, cond: Cond) -> None:
        """Raises ValueError where a condition lacks what this network needs, or has another width."""
        plan = self.plan
        if cond.tokens is None or cond.tokens.shape[-1] != plan.text_width:
            found = "no tokens" if cond.tokens is None else f"tokens of width {cond.tokens.shape[-1]}"
            raise ValueError(
                f"{found} for a network that reads a text of width {plan.text_width}: use its text encoder"
            )
        found_width = None if cond.vector is None else cond.vector.shape[-1]
        wanted = plan.embedded if plan.vector_width is None else plan.vector_width
        if found_width != wanted and not (found_width is None and plan.vector_width is None):
            raise ValueError(f"a condition vector of width {found_width} for a network that takes {wanted}")
        if (cond.guidance is None) != (plan.guidance_width is None):
            words = "has no guidance embedding" if plan.guidance_width is None else "needs cond.guidance"
            raise ValueError(f"this network {words}: {'drop' if plan.guidance_width is None else 'give'} cond.guidance")

    def embed(self, cond: Cond) -> tuple[Tensor | None, Tensor | None]:
        """The condition's addition to the sinusoids of time (B, widths[0]), and to their embedding (B, embedded)."""
        weight = self.conv_in.weight
        features, vector = None, None if cond.vector is None else cond.vector.to(weight.dtype)
        if self.guidance is not None and cond.guidance is not None:
            width = self.guidance.in_features
            waves = sinusoid(1000 * cond.guidance, width, cos_first=False, shift=1.0)
            features = self.guidance(waves.to(weight.dtype))
        return features, vector if self.vector is None or vector is None else self.vector(vector)

    def times(self, time: Tensor, features: Tensor | None, vector: Tensor | None) -> list[Tensor]:
        """Each residual block's projection of time (B,) and of the condition as ``embed`` gives it."""
        waves = sinusoid(time, self.plan.widths[0], cos_first=self.plan.cos_first, shift=self.plan.shift)
        waves = waves.to(self.conv_in.weight.dtype)
        embedding = self.time(waves if features is None else waves + features)
        active = F.silu(embedding if vector is None else embedding + vector)
        return [block.residual.time(active) for block in self.sequence()]

    def read_text(self, tokens: Tensor | None) -> list[list[list[TextKeyValue]]]:
        """The keys and values of a text (B, L, text_width) in every block."""
        if tokens is None:
            return [[] for _ in self.sequence()]
        tokens = tokens.to(self.conv_in.weight.dtype)
        return [[] if block.transformer is None else block.transformer.read_text(tokens) for block in self.sequence()]

    def descend(self, x: Tensor, inputs: BlockInputs, added: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Every feature map that is handed over, finest first, and the middle's; ``added`` joins the first of them."""
        h = self.conv_in(inputs.join(x))
        h = h if added is None else h + added
        states, number = [h], 0
        for level in self.down:
            for block in level.blocks:
                h = block(h, inputs.times[number], inputs.texts[number], inputs.mask)
                states.append(h)
                number += 1
            if level.resample is not None:
                h = level.resample(h, inputs.times[0])  # takes a time like every block, and does not use it
                states.append(h)
        for block in self.middle:
            h = block(h, inputs.times[number], inputs.texts[number], inputs.mask)
            number += 1
        return states, h

    def check(self, x: Tensor, concat: Tensor | None) -> None:
        """Raises ValueError for another number of channels or dimensions than the network's."""
        joined = 0 if concat is None else concat.shape[1]
        if x.ndim != self.plan.dims + 2 or x.shape[1] + joined != self.plan.in_channels:
            raise ValueError(
                f"x {tuple(x.shape)} with {joined} channels joined to it: this network takes {self.plan.in_channels} "
                f"channels over a grid of {self.plan.dims} dimensions"
            )


class TextUNet(UNetEncoder):
    """The cross-attention U-Net over a grid of 1, 2 or 3 dimensions: (B, in, *grid) -> (B, out, *grid)."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        skips, channels = list(self.skips), plan.widths[-1]
        levels = []
        for level, out in reversed(list(enumerate(plan.widths))):
            blocks = []
            for _ in range(plan.blocks + 1):
                blocks.append(self.block(channels + skips.pop(), level))
                channels = out
            levels.append(Level(blocks, Enlarge(self.style, out) if level else None))
        self.up = listed(levels)
        self.norm_out = self.style.norm(channels)
        self.conv_out = zero(self.style.conv(channels, plan.out_channels))

    def sequence(self) -> Iterator[TextBlock]:
        """The blocks in the order in which they are run."""
        yield from super().sequence()
        for level in self.up:
            yield from level.blocks

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """x (B, C, *grid), time (B,). Raises ValueError where x or the condition does not fit the network."""
        self.check(x, cond.concat)
        return self.denoise(x, self.block_inputs(time, cond))

    def prepare(self, cond: Cond) -> Callable[[Tensor, Tensor], Tensor]:
        """The network with its condition inside (see ``prepare_inputs``): x (B, C, *grid), time () or (B,) -> its
        output."""
        block_inputs = self.prepare_inputs(cond)

        def output_of(x: Tensor, time: Tensor) -> Tensor:
            self.check(x, cond.concat)
            return self.denoise(x, block_inputs(time))

        return output_of

    def denoise(self, x: Tensor, inputs: BlockInputs, extra: Sequence[Tensor] | None = None) -> Tensor:
        """The network, given its block inputs; ``extra`` is added to every map that is handed over and to the
        middle's."""
        states, h = self.descend(x, inputs)
        if extra is not None:
            h = h + extra[-1]
            states = [state + more for state, more in zip(states, extra[:-1], strict=True)]
        number = len(inputs.times) - sum(len(level.blocks) for level in self.up)
        for level in self.up:
            for block in level.blocks:
                h = torch.cat([h, states.pop()], dim=1)  # h by itself is let go before the block runs
                h = block(h, inputs.times[number], inputs.texts[number], inputs.mask)
                number += 1
            if level.resample is not None:
                h = level.resample(h, states[-1].shape[2:])
        out: Tensor = self.conv_out(silu(self.norm_out(h)))
        return out
