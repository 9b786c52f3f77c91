"""Loss weights, each defined once, as a function of log-SNR that multiplies the squared error of x0.

The weight of any other prediction is derived: the squared error of x0 is ``gain^2`` times that of the output, so the
output's weight is ``w gain^2``. The weight ``1 / gain^2`` makes the loss the plain squared error of the output; for
epsilon, v, the flow's velocity and EDM's F that is a function of log-SNR alone (the velocity's on the straight path).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.prediction import Prediction
from core.schedule import signal_and_noise

Weight = Callable[[Tensor], Tensor]  # log-SNR (B,) float64 -> the weight of ||x0 - estimate||^2

# Beyond e^40 the ratio of the ends' limits is exact in float64, while the weights themselves stay finite.
_LIMIT = 40.0


def unit(log_snr: Tensor) -> Tensor:
    """The plain squared error of x0."""
    return torch.ones_like(log_snr)


def epsilon(log_snr: Tensor) -> Tensor:
    """SNR: the plain squared error of epsilon, DDPM's simple loss (2006.11239, equation 14)."""
    return log_snr.exp()


def velocity(log_snr: Tensor) -> Tensor:
    """SNR + 1: the plain squared error of v (2202.00512, section 4)."""
    return log_snr.exp() + 1


def flow(log_snr: Tensor) -> Tensor:
    """(sqrt(SNR) + 1)^2: the plain squared error of the straight path's velocity (2209.03003)."""
    return ((log_snr / 2).exp() + 1) ** 2


def truncated_snr(log_snr: Tensor) -> Tensor:
    """max(SNR, 1), of progressive distillation (2202.00512, section 4)."""
    return log_snr.exp().clamp(min=1)


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma) (2303.09556, equation 4): for epsilon min(1, gamma / SNR), for v min(SNR, gamma) / (SNR + 1)."""

    gamma: float = 5.0

    def __call__(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp(max=self.gamma)


@dataclass(frozen=True)
class P2:
    """SNR / (k + SNR)^gamma (2204.00227, equation 8)."""

    gamma: float = 1.0
    k: float = 1.0

    def __call__(self, log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        return snr / (self.k + snr) ** self.gamma


@dataclass(frozen=True)
class EDMWeight:
    """SNR + 1 / sigma_data^2: the plain squared error of EDM's F (2206.00364, table 1)."""

    sigma_data: float = 0.5

    def __call__(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() + self.sigma_data**-2


@dataclass(frozen=True)
class Sigmoid:
    """sigmoid(bias - log-SNR) on epsilon's error (2303.00848, section 4; bias -1 or less there, near 2 for latents)."""

    bias: float = 2.0

    def __call__(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() * (self.bias - log_snr).sigmoid()


def output_weight(weight: Weight, prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The weight of the output's squared error at alpha, sigma (B,) float64; finite limits are exact at both ends."""
    log_snr = (2 * (alpha.log() - sigma.log())).clamp(-_LIMIT, _LIMIT)
    size = torch.hypot(alpha, sigma)
    signal, noise = signal_and_noise(log_snr)
    return weight(log_snr) * prediction.gain(size * signal, size * noise) ** 2
