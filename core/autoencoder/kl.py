"""The KL autoencoder: the encoder gives a normal distribution over codes, regularised towards the unit normal
(2112.10752).

q(z | x) = N(mean(x), exp(logvar(x)))        x ~ decode(z)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.autoencoder.net import Decoder, Encoder, Plan
from core.autoencoder.tiled import decode_in_bands


@dataclass(frozen=True)
class DiagonalGaussian:
    """A normal distribution for every value of the code."""

    mean: Tensor  # (B, C, *grid)
    logvar: Tensor  # (B, C, *grid), in [-30, 20]

    @classmethod
    def of(cls, moments: Tensor) -> DiagonalGaussian:
        """From what the encoder says: (B, 2 C, *grid)."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30, 20))

    def sample(self, noise: Tensor) -> Tensor:
        """A draw, from unit noise like the mean."""
        return self.mean + (self.logvar / 2).exp() * noise

    def kl(self) -> Tensor:
        """The divergence from the unit normal, summed over a sample: (B,), in nats."""
        each = (self.mean**2 + self.logvar.exp() - 1 - self.logvar) / 2
        return each.flatten(1).sum(1)


class KLAutoencoder(nn.Module):
    """Encoder, decoder and the convolutions between them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.encoder = Encoder(plan, 2 * plan.latent)
        self.decoder = Decoder(plan)
        self.quant = plan.style.conv(2 * plan.latent, 2 * plan.latent, size=1) if plan.quant else None
        self.post_quant = plan.style.conv(plan.latent, plan.latent, size=1) if plan.quant else None

    def moments(self, x: Tensor) -> Tensor:
        """Data (B, channels, *grid) -> mean and log variance (B, 2 latent, *grid / factor)."""
        moments: Tensor = self.encoder(x)
        return moments if self.quant is None else self.quant(moments)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """Data -> the distribution of its code."""
        return DiagonalGaussian.of(self.moments(x))

    def decode(self, z: Tensor, bands: int = 1, sliced: bool = False) -> Tensor:
        """Codes (B, latent, *grid) -> data.

        To save memory: ``bands`` of the grid at a time, and with ``sliced`` one sample at a time; both give what the
        whole gives, up to rounding.
        """
        if sliced:
            return torch.cat([self.decode(one, bands) for one in z.split(1)])
        z = z if self.post_quant is None else self.post_quant(z)
        return self.decoder(z) if bands == 1 else decode_in_bands(self.decoder, z, bands)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, DiagonalGaussian]:
        """Data, and noise like the code or None for its mean -> the reconstruction and the posterior."""
        posterior = self.encode(x)
        return self.decode(posterior.mean if noise is None else posterior.sample(noise)), posterior
