"""The law at the noisiest time, from which a density starts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from core.denoiser import Bound
from core.likelihood.trace import ExactTrace, Trace

Prior = Callable[[Tensor, Tensor], Tensor]  # x (B, ...) at the noisiest t () -> log density (B,), nats


def normal(denoise: Bound, mean: float = 0.0, deviation: float = 0.0) -> Prior:
    """x at the noisiest time as ``N(alpha mean, alpha^2 deviation^2 + sigma^2)``.

    The default, ``N(0, sigma^2)``, is what samplers start from, so that ``log_prob`` is the density of the model as a
    generator. It neglects what the noisiest x still knows of the data: ``(alpha / sigma) |E x0|`` nats times a unit
    normal, nothing on paths that reach alpha = 0. The data's mean and deviation account for most of it.
    """

    def log_density(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (float(value) for value in denoise.schedule(t))
        return _log_normal(x, alpha * mean, (alpha * deviation) ** 2 + sigma**2)

    return log_density


def noised_data(denoise: Bound, trace: Trace = ExactTrace(), nodes: int = 4) -> Prior:
    """x at the noisiest time as the data with noise, as the denoiser itself knows it.

    With ``h = log p_t - log N(0, sigma^2)``, its gradient alpha D / sigma^2 is integrated from 0 to x by Gauss-Legendre
    and ``h(0) = -(alpha / sigma)^2 E[|x0|^2 | x = 0] / 2``, ``E |x0|^2 = |D|^2 + (sigma^2 / alpha) div D``, is right up
    to Var |x0|^2 (alpha / sigma)^4 / 8. The denoiser must know inputs near 0: a network may not.
    """
    nodes_of, weights = np.polynomial.legendre.leggauss(nodes)

    def log_density(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (float(value) for value in denoise.schedule(t))
        plain = _log_normal(x, 0.0, sigma**2)
        if alpha == 0:
            return plain
        line = sum(w / 2 * (denoise((p + 1) / 2 * x, t) * x).flatten(1).sum(1) for p, w in zip(nodes_of, weights))
        with torch.enable_grad():
            centre = torch.zeros_like(x).requires_grad_()
            clean = denoise(centre, t)
            spread = trace(clean, centre, 0, range(trace.probes)).trace.mean(1)
        power = clean.detach().flatten(1).pow(2).sum(1) + sigma**2 / alpha * spread
        return plain + alpha / sigma**2 * line - (alpha / sigma) ** 2 / 2 * power

    return log_density


def _log_normal(x: Tensor, mean: float, variance: float) -> Tensor:
    x = x.double()
    return -((x - mean) ** 2 / variance + math.log(2 * math.pi * variance)).flatten(1).sum(1) / 2
