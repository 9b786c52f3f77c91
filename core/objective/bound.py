"""The variational bound, for a learned variance.

    L_t = KL(q(x_s | x_t, x0) || N(mean, e^v)),    L_0 = -log p(x0 | x_0)  of 8-bit data,

where s is the step before t, log variance v mixes log beta and log beta-tilde (2102.09672, equations 4 and 15) and the
mean is detached, so that only the variance learns from it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.denoiser import Estimate, spread
from core.schedule import Discrete


def variational_bound(schedule: Discrete, x: Tensor, x_t: Tensor, t: Tensor, estimate: Estimate) -> Tensor:
    """Bits per dimension of the step from t (B,) to t - 1, averaged over each sample: (B,).

    x (B, ...) in [-1, 1]; the step to clean data is the likelihood of bytes. Raises ValueError without a learned mix.
    """
    if estimate.mix is None:
        raise ValueError("the variational bound needs a learned variance: give the denoiser a LearnedRange prediction")
    first = _variances(schedule, torch.ones(1, dtype=torch.float64))[1].log()
    low, high, from_x_t, from_clean = (spread(value, x) for value in _posterior(schedule, t, float(first)))
    clean = estimate.clean.detach()
    log_variance = torch.lerp(low, high, estimate.mix)
    mean, true_mean = (from_x_t * x_t + from_clean * value for value in (clean, x))
    gap = (true_mean - mean) ** 2 * (-log_variance).exp()
    divergence = (log_variance - low + (low - log_variance).exp() - 1 + gap) / 2
    surprise = -_log_likelihood_of_bytes(x, mean, log_variance / 2)
    last = spread((t <= 0).to(x), x) > 0
    return torch.where(last, surprise, divergence).flatten(1).mean(1) / math.log(2)


def _variances(schedule: Discrete, t: Tensor) -> tuple[Tensor, Tensor]:
    """beta and beta-tilde of the step from t to t - 1, each (B,) float64."""
    alpha, sigma = schedule(t.double())
    before_alpha, before_sigma = schedule(t.double() - 1)
    beta = sigma**2 - (alpha / before_alpha) ** 2 * before_sigma**2
    return beta, beta * before_sigma**2 / sigma**2


def _posterior(schedule: Discrete, t: Tensor, first: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log beta-tilde (``first`` where it is -inf), log beta, and the weights of x_t and x0 in the mean (equation 7)."""
    beta, narrow = _variances(schedule, t)
    alpha, sigma = schedule(t.double())
    before_alpha, before_sigma = schedule(t.double() - 1)
    low = torch.where(narrow > 0, narrow.log(), torch.full_like(narrow, first))
    return low, beta.log(), alpha / before_alpha * before_sigma**2 / sigma**2, before_alpha * beta / sigma**2


def _log_likelihood_of_bytes(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """log of the Gaussian's mass in the bin of width 2 / 255 around x; the outer bins are open (2006.11239, eq. 13)."""
    precision = (-log_deviation).exp()
    above = torch.special.ndtr((x - mean + 1 / 255) * precision)
    below = torch.special.ndtr((x - mean - 1 / 255) * precision)
    above = torch.where(x > 0.999, torch.ones_like(above), above)
    below = torch.where(x < -0.999, torch.zeros_like(below), below)
    return (above - below).clamp(min=1e-12).log()
