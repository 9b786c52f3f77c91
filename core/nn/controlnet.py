"""ControlNet: a copy of a U-Net's encoder that also takes a picture and adds its feature maps to the U-Net's
(2302.05543).

    c_i = Z_i(encoder(x, hint(picture))_i)
    u   = decoder(s_i + scale c_i)              s_i what the U-Net's own encoder hands over

The Z_i are convolutions of size 1 that start at zero, so a new ControlNet changes nothing. ``ControlledUNet``
is a network for a denoiser like any other; the picture comes with the condition (``ControlCond``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.blocks import Style, zero
from core.nn.text_unet import BlockInputs, TextUNet, UNetEncoder
from core.nn.text_unet_plan import Plan
from core.nn.transformer2d import listed

HINT_WIDTHS = (16, 32, 96, 256)


@dataclass(frozen=True)
class ControlCond(Cond):
    """A condition with pictures for ControlNets."""

    control: Tensor | None = None  # (B, C, *grid)  in [0, 1], larger than x by each ControlNet's ``reduction``


class Hint(nn.Module):
    """A picture made as small as x by convolutions, every second of which halves it; the last starts at zero."""

    def __init__(self, style: Style, channels: int, widths: Sequence[int], out: int) -> None:
        super().__init__()
        self.conv_in = style.conv(channels, widths[0])
        steps = []
        for width, wider in zip(widths, widths[1:]):
            steps += [style.conv(width, width), style.conv(width, wider, stride=2)]
        self.steps = listed(steps)
        self.conv_out = zero(style.conv(widths[-1], out))

    def forward(self, picture: Tensor) -> Tensor:
        """(B, C, *grid) -> (B, out, *grid smaller)."""
        h = F.silu(self.conv_in(picture))
        for step in self.steps:
            h = F.silu(step(h))
        out: Tensor = self.conv_out(h)
        return out


class ControlNet(UNetEncoder):
    """An encoder with a control picture, and an output for each feature map that the U-Net's encoder hands over."""

    def __init__(self, plan: Plan, channels: int = 3, hint_widths: Sequence[int] = HINT_WIDTHS) -> None:
        """plan: the U-Net's; channels: of the picture, which is 2 ** (len(hint_widths) - 1) times as large as x."""
        super().__init__(plan)
        self.channels, self.hint_widths = channels, tuple(hint_widths)
        self.reduction = 2 ** (len(self.hint_widths) - 1)
        self.hint = Hint(self.style, channels, hint_widths, plan.widths[0])
        self.outlets = listed(zero(self.style.conv(width, width, size=1)) for width in [*self.skips, plan.widths[-1]])

    @classmethod
    def of(cls, unet: TextUNet, channels: int = 3, hint_widths: Sequence[int] = HINT_WIDTHS) -> Self:
        """A ControlNet that begins with a U-Net's own encoder, and so by changing nothing."""
        net = cls(unet.plan, channels, hint_widths).to(unet.conv_in.weight)
        own = net.state_dict()
        net.load_state_dict(own | {key: value for key, value in unet.state_dict().items() if key in own})
        return net

    def forward(self, x: Tensor, time: Tensor, cond: ControlCond) -> list[Tensor]:
        """What it adds to each feature map and, last, to the middle's: x (B, C, *grid), time (B,)."""
        self.check(x, cond.concat)
        if cond.control is None:
            raise ValueError("a condition without a picture for a ControlNet: fill cond.control")
        return self.control(x, self.block_inputs(time, cond), self.embed_hint(cond.control))

    def embed_hint(self, picture: Tensor) -> Tensor:
        """The features of a picture (B, channels, *grid), which do not depend on x."""
        if picture.shape[1] != self.channels:
            raise ValueError(f"a picture of {picture.shape[1]} channels for a ControlNet that takes {self.channels}")
        hint: Tensor = self.hint(picture.to(self.conv_in.weight.dtype))
        return hint

    def control(self, x: Tensor, inputs: BlockInputs, hint: Tensor) -> list[Tensor]:
        """``forward``, given the inputs of its blocks and the result of ``embed_hint``."""
        if hint.shape[2:] != x.shape[2:]:
            raise ValueError(
                f"a picture that becomes {tuple(hint.shape[2:])} for x {tuple(x.shape[2:])}: "
                f"resize it to {self.reduction} times the size of x"
            )
        states, middle = self.descend(x, inputs, hint)
        return [outlet(state) for outlet, state in zip(self.outlets, [*states, middle], strict=True)]


class ControlledUNet(nn.Module):
    """A U-Net guided by ControlNets, each with a scale; ``cond.control`` joins their pictures in this order."""

    def __init__(self, net: TextUNet, controls: Sequence[ControlNet], scales: Sequence[float]) -> None:
        super().__init__()
        if len(controls) != len(scales) or not controls:
            raise ValueError(f"{len(controls)} ControlNets with {len(scales)} scales: give one scale to each")
        self.net, self.controls, self.scales = net, listed(controls), tuple(scales)

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """x (B, C, *grid), time (B,), a ``ControlCond``."""
        self.net.check(x, cond.concat)
        control_inputs = [control.block_inputs(time, self.cond_for(control, cond)) for control in self.controls]
        return self.denoise(x, self.net.block_inputs(time, cond), control_inputs, self.embed_hint(cond))

    def prepare(self, cond: Cond) -> Callable[[Tensor, Tensor], Tensor]:
        """The network with its condition inside, text and pictures encoded once: x, time () or (B,) -> its output."""
        block_inputs, hint = self.net.prepare_inputs(cond), self.embed_hint(cond)
        control_prepared = [control.prepare_inputs(self.cond_for(control, cond)) for control in self.controls]

        def output_of(x: Tensor, time: Tensor) -> Tensor:
            self.net.check(x, cond.concat)
            return self.denoise(x, block_inputs(time), [inputs_at(time) for inputs_at in control_prepared], hint)

        return output_of

    def cond_for(self, control: ControlNet, cond: Cond) -> Cond:
        """The condition for one ControlNet, without the U-Net's mask (inpainting) and guidance."""
        whole = control.plan.in_channels == self.net.plan.in_channels
        return dataclasses.replace(
            cond,
            concat=cond.concat if whole else None,
            guidance=None if control.guidance is None else cond.guidance,
        )

    def embed_hint(self, cond: Cond) -> list[Tensor]:
        """The features of each ControlNet's picture. Raises ValueError where the condition has no such pictures."""
        channels = [control.channels for control in self.controls]
        pictures = cond.control if isinstance(cond, ControlCond) else None
        if pictures is None or pictures.shape[1] != sum(channels):
            found = "no pictures" if pictures is None else f"pictures of {pictures.shape[1]} channels"
            raise ValueError(f"{found} for ControlNets that take {channels} channels: join them in ControlCond.control")
        return [control.embed_hint(part) for control, part in zip(self.controls, pictures.split(channels, dim=1))]

    def denoise(self, x: Tensor, inputs: BlockInputs, control_inputs: list[BlockInputs], hint: list[Tensor]) -> Tensor:
        """The network, given the block inputs of the U-Net and of each ControlNet, and the features of the pictures."""
        extra: list[Tensor] = []
        for control, scale, block_inputs, picture in zip(self.controls, self.scales, control_inputs, hint):
            scaled = [scale * part for part in control.control(x, block_inputs, picture)]
            extra = [before + part for before, part in zip(extra, scaled)] if extra else scaled
        return self.net.denoise(x, inputs, extra)
