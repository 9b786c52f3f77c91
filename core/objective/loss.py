"""The objective: one noise level for each sample, and the weighted squared error of the network there.

    loss = E_t E_eps  w(log-SNR) ||x0 - estimate(alpha x0 + sigma eps)||^2

The squared error is taken in the output's own space, which the network finds easy, with the weight that makes it equal
to the line above; so every prediction minimises the same thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.cond import Cond
from core.denoiser import Denoiser, spread
from core.objective.bound import variational_bound
from core.objective.coupling import Coupling, independent_coupling
from core.objective.density import Density, Quantiles, per_log_snr, stratified, uniform
from core.objective.weight import Weight, output_weight, unit
from core.prediction import LearnedRange
from core.random import Stream, TrainingRNG
from core.schedule import Discrete, log_snr

AuxiliaryLoss = Callable[
    [Tensor, Tensor, Tensor | None], Tensor
]  # x0 as estimated, x0, valid -> (B,), already weighted


class Losses(NamedTuple):
    """What a batch cost."""

    mean: Tensor  # (), what is minimised
    each: Tensor  # (B,), the weighted error of each sample, without the terms added to it
    t: Tensor  # (B,), float64 on the host


class Uncertainty(nn.Module):
    """u(log-SNR), the log of the loss that is to be expected at a noise level (2312.02696, equation 21).

    The loss becomes ``error / e^u + u``: every noise level then pulls equally hard, whatever its weight.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.frequency = nn.Buffer(torch.randn(width) * (2 * math.pi))
        self.phase = nn.Buffer(torch.rand(width) * (2 * math.pi))
        self.linear = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, log_snr: Tensor) -> Tensor:
        """(B,) -> (B,); infinite log-SNRs are clamped to +-40."""
        # A quarter of log sigma is what EDM's networks embed.
        noise = log_snr.clamp(-40, 40).to(self.frequency) / -8
        value: Tensor = self.linear((noise[:, None] * self.frequency + self.phase).cos() * math.sqrt(2))
        return value[:, 0] / math.sqrt(self.linear.in_features)


class Objective(nn.Module):
    """What is minimised.

    times:       the density over t;
    weight:      of the squared error of x0, a function of log-SNR;
    drop:        the share of conditions replaced by the null, for classifier-free guidance (2207.12598);
    places:      how the places in ``times`` are drawn;
    pairing:     which noise goes with which sample;
    uncertainty: a learned u(log-SNR), trained along;
    bound:       the weight of the variational bound, for a learned variance; T / 1000 in 2102.09672;
    integrand:   divide by the density over log-SNR, so that ``weight`` is the integrand over log-SNR and ``times``
                 changes the variance only (2303.00848, equation 6);
    auxiliary_loss: a further loss of x0 as it is estimated, for what a domain knows of its data (2209.14916, section
    3).
    """

    def __init__(
        self,
        times: Density = uniform,
        weight: Weight = unit,
        *,
        drop: float = 0.0,
        quantiles: Quantiles = stratified,
        coupling: Coupling = independent_coupling,
        uncertainty: Uncertainty | None = None,
        bound: float = 0.0,
        importance_weighted: bool = False,
        auxiliary_loss: AuxiliaryLoss | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= drop <= 1:
            raise ValueError(f"the share of dropped conditions must lie in 0 to 1, not {drop}")
        self.times = times
        self.weight = weight
        self.drop = drop
        self.quantiles = quantiles
        self.coupling = coupling
        self.uncertainty = uncertainty
        self.bound = bound
        self.importance_weighted = importance_weighted
        self.auxiliary_loss = auxiliary_loss

    def keep(self, rng: TrainingRNG) -> Tensor:
        """Which samples keep their condition: (B,) bool."""
        return rng.uniform(Stream.DROP) >= self.drop

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Cond, rng: TrainingRNG, quantiles: Tensor | None = None
    ) -> Losses:
        """The loss of what is diffused, x (B, ...); ``quantiles`` (B,) in [0, 1) fixes the noise levels.

        The error of a sample is its mean over the elements that exist (``cond.valid``).
        """
        quantiles = self.quantiles(rng) if quantiles is None else quantiles
        t = self.times(denoiser.schedule, quantiles)
        alpha, sigma = denoiser.schedule(t)
        noise = self.coupling(x, rng.normal(x, Stream.NOISE))
        a, s = spread(alpha, x), spread(sigma, x)
        x_t = a * x + s * noise
        output = denoiser.output(x_t, t, cond)
        prediction = denoiser.prediction
        predicted = prediction.split(output)[0] if isinstance(prediction, LearnedRange) else output
        error = average((predicted - prediction.target(x, noise, a, s)) ** 2, cond.valid)
        weight = output_weight(self.weight, prediction, alpha, sigma)
        if self.importance_weighted:
            weight = weight / per_log_snr(self.times, denoiser.schedule, quantiles)
        each = error * weight.to(error)
        total = each
        if self.uncertainty is not None:
            expected = self.uncertainty(log_snr(denoiser.schedule, t))
            total = each / expected.exp() + expected
        if self.bound:
            total = total + self.bound * self._bound(denoiser, x, x_t, t, output)
        if self.auxiliary_loss is not None:
            total = total + self.auxiliary_loss(denoiser.from_output(x_t, t, output).clean, x, cond.valid)
        return Losses(total.mean(), each.detach(), t)

    def _bound(self, denoiser: Denoiser, x: Tensor, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        if not isinstance(denoiser.schedule, Discrete):
            raise ValueError("the variational bound is a sum over the steps of a Discrete schedule")
        return variational_bound(denoiser.schedule, x, x_t, t, denoiser.from_output(x_t, t, output))


def average(error: Tensor, valid: Tensor | None) -> Tensor:
    """The mean of error (B, N, ...) over each sample, counting only valid positions (B, N): (B,)."""
    if valid is None:
        return error.flatten(1).mean(1)
    if error.shape[: valid.ndim] != valid.shape:
        raise ValueError(f"valid has shape {tuple(valid.shape)}, but x has positions {tuple(error.shape[1:])}")
    each = error.flatten(valid.ndim).mean(-1) if error.ndim > valid.ndim else error
    kept = valid.to(each)
    return (each * kept).flatten(1).sum(1) / kept.flatten(1).sum(1).clamp(min=1)
