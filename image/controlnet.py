"""ControlNetDiffusion: a frozen diffusion model with a ControlNet that is trained (2302.05543).

What such a system saves, averages and loads is the ControlNet alone, as of a LoRA (``core.systems.lora``). A batch
has a control picture under "control" in addition to the model's own condition.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.denoiser import Denoiser
from core.nn.controlnet import HINT_WIDTHS, ControlledUNet, ControlNet
from core.nn.text_unet import TextUNet
from core.systems.diffusion import Diffusion
from core.systems.lora import save_only
from image.condition.control import ControlPicture

OWN = "denoiser.net.controls."  # how the names of what is saved begin


class ControlNetDiffusion(Diffusion):
    """A model and a ControlNet of its U-Net, which changes nothing while it is new."""

    def __init__(self, base: Diffusion, channels: int = 3, hint_widths: Sequence[int] = HINT_WIDTHS) -> None:
        """channels, hint_widths: of the ControlNet; nothing else of the model is trained any more.

        Raises ValueError for a model whose network is no U-Net that reads text.
        """
        base.requires_grad_(False)
        old = base.denoiser
        if not isinstance(old.net, TextUNet):
            raise ValueError(
                f"a ControlNet is of a U-Net that reads text, and this model has a {type(old.net).__name__}"
            )
        control = ControlNet.of(old.net, channels, hint_widths).requires_grad_(True)
        net = ControlledUNet(old.net, [control], [1.0])
        denoiser = Denoiser(net, old.schedule, old.prediction, old.clock)
        super().__init__(denoiser, ControlPicture(base.conditioner, channels), base.codec, base.objective)
        self.control = control
        save_only(self, OWN)


def with_controlnet(base: Diffusion, control: ControlNet, scale: float = 1.0) -> Diffusion:
    """A model with a trained ControlNet, for sampling; it shares the model's network, which stays as it is.

    Raises ValueError for a ControlNet of another network.
    """
    old = base.denoiser
    if not isinstance(old.net, TextUNet):
        raise ValueError(f"a ControlNet leads a U-Net that reads text, and this model has a {type(old.net).__name__}")
    own, other = old.net.plan, control.plan
    if old.net.skips != control.skips or (own.text_width, own.vector_width) != (other.text_width, other.vector_width):
        raise ValueError("this ControlNet is of another network than the model's: take one made for the same base")
    net = ControlledUNet(old.net, [control.to(old.net.conv_in.weight)], [scale])
    denoiser = Denoiser(net, old.schedule, old.prediction, old.clock)
    return Diffusion(denoiser, ControlPicture(base.conditioner, control.channels), base.codec, base.objective)


def hint_widths(factor: int) -> tuple[int, ...]:
    """The widths of a hint for a picture ``factor`` times as large as x. Raises ValueError for no power of two."""
    count = factor.bit_length()
    if factor < 1 or factor != 2 ** (count - 1):
        raise ValueError(
            f"a control picture is 1, 2, 4 or 8 ... times as large as what is diffused, not {factor} times"
        )
    return (HINT_WIDTHS + (HINT_WIDTHS[-1],) * count)[:count]
