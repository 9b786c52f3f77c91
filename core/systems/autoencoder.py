"""What training an autoencoder costs, for the one training loop (2112.10752, appendix G).

loss = |x - y| + ||x - y||^2 + perceptual + beta KL / size + adversarial        y = decode(draw of q(z | x))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.autoencoder import KLAutoencoder, VQAutoencoder
from core.autoencoder.adversary import PatchDiscriminator, balance, hinge
from core.autoencoder.perceptual import Perceptual
from core.objective import Losses
from core.random import Stream, TrainingRNG
from core.systems.system import System


@dataclass(frozen=True)
class Weights:
    """What each term counts.

    absolute, squared: of the error, per value; kl: of the divergence in nats of a sample, spread over its values;
    codebook: of a VQ autoencoder's own loss; adversarial: on top of the balance of gradients, after
    ``discriminator_start`` samples of the run.
    """

    absolute: float = 1.0
    squared: float = 0.0
    perceptual: float = 1.0
    kl: float = 1e-6
    codebook: float = 1.0
    adversarial: float = 0.5
    discriminator_start: int = 600_000


class AutoencoderTraining(System):
    """An autoencoder with the terms of its training."""

    makes_samples = False

    def __init__(
        self,
        autoencoder: KLAutoencoder | VQAutoencoder,
        weights: Weights = Weights(),
        perceptual: Perceptual | None = None,
        discriminator: PatchDiscriminator | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.weights = weights
        self.perceptual = perceptual
        self.discriminator = discriminator

    def loss(self, batch: Mapping[str, Any], rng: TrainingRNG, quantiles: Tensor | None = None) -> Losses:
        """The loss of a batch of data "x" (B, ...); ``quantiles`` asks for the codes' means, as held-out losses do."""
        last = self.autoencoder.decoder.conv_out.weight
        x = batch["x"].to(last.device)
        out, regular = self.reconstruct(x, None if quantiles is not None else rng)
        weights = self.weights
        each = weights.absolute * (out - x).abs().flatten(1).mean(1)
        each = each + weights.squared * (out - x).square().flatten(1).mean(1)
        if self.perceptual is not None:
            each = each + weights.perceptual * self.perceptual(out, x)
        total = each.mean() + regular
        if self.discriminator is not None and quantiles is None and rng.positions[0] >= weights.discriminator_start:
            fooled = -self.discriminator.frozen(out).mean()
            total = total + weights.adversarial * balance(each.mean(), fooled, last) * fooled
            total = total + hinge(self.discriminator(x), self.discriminator(out.detach()))
        time = torch.zeros(len(x), dtype=torch.float64) if quantiles is None else quantiles
        return Losses(total, each.detach(), time)

    def reconstruct(self, x: Tensor, rng: TrainingRNG | None) -> tuple[Tensor, Tensor]:
        """Data through a code drawn from its posterior, or its mean without a draw; and what regularises the code."""
        if isinstance(self.autoencoder, VQAutoencoder):
            out, found = self.autoencoder(x)
            return out, self.weights.codebook * found.loss
        posterior = self.autoencoder.encode(x)
        code = posterior.mean if rng is None else posterior.sample(rng.normal(posterior.mean, Stream.CODEC))
        return self.autoencoder.decode(code), self.weights.kl * posterior.kl().mean() / x[0].numel()
