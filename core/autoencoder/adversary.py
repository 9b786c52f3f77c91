"""PatchGAN: a discriminator that judges every patch of a picture (1611.07004), and how it trains an autoencoder.

    discriminator   mean relu(1 - D(x)) / 2 + mean relu(1 + D(y)) / 2        hinge (1705.02894), y without gradient
    autoencoder     -mean D(y)                                              D without gradient

Both are terms of one loss: neither reaches the other's weights, so one optimizer step trains both.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from core.nn.blocks import CONVOLUTIONS


class PatchDiscriminator(nn.Module):
    """Convolutions of size 4: (B, channels, *grid) -> a verdict for each overlapping patch (B, 1, *smaller).

    Norms are over groups, not over the batch, so that a verdict does not depend on what else is judged.
    """

    def __init__(self, channels: int = 3, width: int = 64, halvings: int = 3, dims: int = 2, groups: int = 8) -> None:
        super().__init__()
        conv = CONVOLUTIONS[dims]
        layers: list[nn.Module] = [conv(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        inner = width
        for halving in range(1, halvings + 1):
            outer, stride = width * min(2**halving, 8), 2 if halving < halvings else 1
            layers += [conv(inner, outer, 4, stride, 1, bias=False), nn.GroupNorm(groups, outer), nn.LeakyReLU(0.2)]
            inner = outer
        layers.append(conv(inner, 1, 4, 1, 1))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        verdict: Tensor = self.layers(x)
        return verdict

    def frozen(self, x: Tensor) -> Tensor:
        """The verdict about x, whose gradient reaches x and not the weights."""
        state: Mapping[str, Tensor] = {name: value.detach() for name, value in self.named_parameters()}
        verdict: Tensor = functional_call(self, dict(state), (x,))
        return verdict


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """What the discriminator minimises, from its verdicts: ()."""
    return (F.relu(1 - real).mean() + F.relu(1 + made).mean()) / 2


def balance(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """The weight that gives both losses gradients of equal size at the decoder's last weights (2012.09841, eq. 7)."""
    first, second = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (reconstruction, adversarial))
    return (first.norm() / (second.norm() + 1e-4)).clamp(0, 1e4).detach()
