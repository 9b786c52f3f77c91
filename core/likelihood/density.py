"""log_prob and what it needs besides the ODE: a trace, and the law at the noisiest time.

The error bar comes from the adjoint: a local error (e_y, e_l) of a step in y and in the integral of div f moves the
answer by ``e_l + score . e_y``, and the score is ``-y - cot(a) f``. What the model got wrong is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from core.denoiser import Bound
from core.likelihood.path import end_size, ends, first_step, integrate, velocity_of
from core.random import SamplingRNG

Trace = Callable[[Tensor, Tensor], Tensor]  # a function's value, its argument (B, ...) -> estimates of its trace (B, K)
Prior = Callable[[Tensor, Tensor], Tensor]  # x (B, ...) at the noisiest t () -> log density (B,), nats


@dataclass(frozen=True)
class Likelihood:
    """log p(x) of each sample in nats with the two sources of its error, float64."""

    value: Tensor  # (B,)
    solver: Tensor  # (B,), a bound on the error of the ODE's solution, to first order
    probe: Tensor  # (B,), the standard error of the trace estimator, 0 for the exact trace
    probes: int

    @property
    def error(self) -> Tensor:
        """The 95 % error bar (B,): the solver's error plus Student's quantile of the probes' standard error."""
        return self.solver + (stdtrit(self.probes - 1, 0.975) * self.probe if self.probes > 1 else 0)


def exact_trace(value: Tensor, argument: Tensor) -> Tensor:
    """The trace of d value / d argument for each sample, (B, 1); one backward pass a dimension."""
    flat = value.flatten(1)  # (B, D)
    rows = (torch.autograd.grad(column.sum(), argument, retain_graph=True)[0].flatten(1) for column in flat.unbind(1))
    return torch.stack([row[:, i] for i, row in enumerate(rows)], dim=1).sum(1, keepdim=True)


def hutchinson(noise: SamplingRNG, like: Tensor, count: int = 8) -> Trace:
    """Hutchinson's estimates of the trace by ``count`` random sign vectors, the same at every a; one backward each.

    Raises ValueError for fewer than two: their spread is the error bar.
    """
    if count < 2:
        raise ValueError("an error bar needs at least two probes")
    probes = [noise.probe(like, part) for part in range(count)]

    def trace(value: Tensor, argument: Tensor) -> Tensor:
        products = []
        for probe in probes:
            signs = probe.to(value)
            row = torch.autograd.grad(value, argument, signs, retain_graph=True)[0]
            products.append((row * signs).flatten(1).sum(1))
        return torch.stack(products, dim=1)

    return trace


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


def noised_data(denoise: Bound, trace: Trace = exact_trace, nodes: int = 4) -> Prior:
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
            spread = trace(clean, centre).mean(1)
        power = clean.detach().flatten(1).pow(2).sum(1) + sigma**2 / alpha * spread
        return plain + alpha / sigma**2 * line - (alpha / sigma) ** 2 / 2 * power

    return log_density


def log_prob(
    denoise: Bound, x: Tensor, prior: Prior | None = None, trace: Trace = exact_trace, tolerance: float = 1e-6
) -> Likelihood:
    """log p(x) of data x (B, ...) in nats (2011.13456, equation 39), in float64 whatever the denoiser computes in.

    prior: the law at the noisiest time, by default the ``normal`` that samplers start from. tolerance: of a solver's
    step; a step that cannot reach it raises ValueError.
    """
    first, last = ends(denoise)
    velocity = velocity_of(denoise, x.dtype)
    size = x[0].numel()

    def rates(a: float, state: Tensor) -> Tensor:  # (B, D + K)
        with torch.enable_grad():
            y = state[:, :size].view(x.shape).detach().requires_grad_()
            rate = velocity(a, y)
            divergence = trace(rate, y)
        return torch.cat([rate.flatten(1), divergence], dim=1).detach()

    with torch.no_grad():
        y = first_step(velocity, x.double(), first, tolerance).flatten(1)
    rate, divergence = rates(first, y).tensor_split([size], dim=1)
    volume = first / 2 * divergence
    # What the straight step away from the data leaves out is of second order in its change of volume.
    small = volume.mean(1).abs()
    error = small**2 + small * (rate**2).sum(1) / 2
    for step in integrate(rates, torch.cat([y, volume], 1), first, last, tolerance):
        y, volume = step.state.tensor_split([size], dim=1)
        score = -y - step.slope[:, :size] / math.tan(step.angle)
        error = error + (score * step.error[:, :size]).sum(1).abs() + step.error[:, size:].mean(1).abs()
    scale = end_size(denoise)
    end = torch.tensor(denoise.schedule.noisiest, dtype=torch.float64)
    x_t = (y * scale).view(x.shape).to(x.dtype)
    with torch.no_grad():
        ending = (prior or normal(denoise))(x_t, end).double() + size * math.log(scale)
    probes = volume.shape[1]
    spread = volume.std(1) / math.sqrt(probes) if probes > 1 else torch.zeros_like(error)
    return Likelihood(ending + volume.mean(1), error, spread, probes)


def _log_normal(x: Tensor, mean: float, variance: float) -> Tensor:
    x = x.double()
    return -((x - mean) ** 2 / variance + math.log(2 * math.pi * variance)).flatten(1).sum(1) / 2
