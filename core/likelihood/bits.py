"""Bits per dimension, the likelihood of data that come in steps, with the dequantisation stated.

The model of such data is the sample at the schedule's cleanest time, divided by alpha and rounded to a step, so that
``P(x)`` is the integral of its density over the cell of x. With draws u of any q within the cell,
``log P(x) >= E[log p(u) - log q(u)]`` (1511.01844), and importance weights come nearer (1509.00519).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from core.denoiser import Bound
from core.likelihood.density import Start, clean_data, cleanest_time, default_trace, log_prob
from core.likelihood.prior import Prior
from core.likelihood.trace import Trace
from core.random import SamplingRNG, Stream, uniform

Draw = Callable[[Bound, Tensor, int], tuple[Tensor, Tensor]]  # model, data (B, ...), draw's number -> u, log q (B,)


@dataclass(frozen=True)
class Dequantisation:
    """How numbers that come in steps are made continuous."""

    name: str
    draw: Draw
    draws: int = 1
    start: Start = cleanest_time


def uniform_dequantisation(noise: SamplingRNG, step: float, draws: int = 4) -> Dequantisation:
    """Uniform noise over the cell of width ``step`` around each number: 1/128 for 256 levels, 2/255 if both ends count.

    Right for a model that was trained on data with such noise. Raises ValueError for fewer than two draws: their spread
    is in the error bar.
    """
    _check(draws)

    def draw(denoise: Bound, x: Tensor, number: int) -> tuple[Tensor, Tensor]:
        fraction = uniform(noise.seed, noise.samples, Stream.CODEC, 0, x.shape[1:], number).to(x) - 0.5
        return x + step * fraction, torch.full((len(x),), -x[0].numel() * math.log(step)).double().to(x.device)

    name = f"uniform over cells of {step:g}: {-math.log2(step):+.4f} bits per dimension, {draws} draws"
    return Dequantisation(name, draw, draws)


def fitted_dequantisation(noise: SamplingRNG, step: float, draws: int = 4, probes: int = 16) -> Dequantisation:
    """A normal law cut off at the cell, with the mean and the deviation that the model has in it.

    At the cleanest noise s the model is locally normal about the data x, with score ``(D - x) / s^2`` and precisions
    ``(1 - dD_i / dx_i) / s^2``; ``probes`` estimate that diagonal. Where the model knows the steps (it was trained on
    data without added noise) a uniform law would fall between them; where it is smooth over a cell this one is nearly
    uniform. Raises ValueError for fewer than two draws.
    """
    _check(draws)

    def draw(denoise: Bound, x: Tensor, number: int) -> tuple[Tensor, Tensor]:
        t = torch.tensor(denoise.schedule.cleanest, dtype=torch.float64)
        alpha, sigma = (float(value) for value in denoise.schedule(t))
        deviation = sigma / alpha
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            clean = denoise(alpha * leaf, t)
            diagonal = torch.zeros_like(x)
            for part in range(probes):
                signs = noise.probe(x, part)
                diagonal += torch.autograd.grad(clean, leaf, signs, retain_graph=True)[0] * signs / probes
        precision = (1 - diagonal).double().clamp(1e-4, 1) / deviation**2
        pull = (clean.detach() - x).double() / deviation**2
        middle = (pull / precision).clamp(-step / 2, step / 2)
        fraction = uniform(noise.seed, noise.samples, Stream.CODEC, 0, x.shape[1:], number).to(middle)
        return _truncated(x.double(), middle, precision.rsqrt(), step / 2, fraction)

    return Dequantisation(f"normal, fitted to the model within cells of {step:g}, {draws} draws", draw, draws)


def no_dequantisation() -> Dequantisation:
    """For data that are continuous already: bits per dimension of the density, which may be negative."""
    nothing: Draw = lambda denoise, x, number: (x, torch.zeros(len(x)).double().to(x.device))  # noqa: E731
    return Dequantisation("none: of a density", nothing, 1, clean_data)


@dataclass(frozen=True)
class Bits:
    """Bits per dimension of each sample, their 95 % error bar, how the data were dequantised, and what it cost."""

    value: Tensor  # (B,)
    error: Tensor  # (B,)
    dequantisation: str
    evaluations: int  # of the network, for each sample, over all draws
    products: int  # backward passes through it


def bits_per_dim(
    denoise: Bound,
    x: Tensor,
    dequantisation: Dequantisation,
    prior: Prior | None = None,
    trace: Trace | None = None,
    tolerance: float = 1e-3,
) -> Bits:
    """``-log P(x) / (D log 2)``, an upper bound of it, of data x (B, ...); see ``log_prob`` for the rest.

    With an exact trace the draws are importance weights. With probes, whose error would be exponentiated with the
    weights, the bound is the mean over draws. The bar is that of the bound: the spread of the draws, the probes' error
    in it, and the solver's error.
    """
    size = x[0].numel()
    unit = size * math.log(2)
    trace = trace or default_trace(x)
    found, log_q = [], []
    for number in range(dequantisation.draws):
        drawn, density = dequantisation.draw(denoise, x, number)
        log_q.append(density.double())
        found.append(log_prob(denoise, drawn.to(x.dtype), prior, trace.fresh(number), tolerance, dequantisation.start))
    evaluations, products = sum(one.evaluations for one in found), sum(one.products for one in found)
    weights = torch.stack([one.value - density for one, density in zip(found, log_q)], 1)  # (B, draws), logarithms
    if dequantisation.draws == 1:
        return Bits(-weights[:, 0] / unit, found[0].error / unit, dequantisation.name, evaluations, products)
    count = dequantisation.draws
    value, deviation = weights.mean(1), weights.std(1)
    if all(not bool(one.probe.any()) for one in found):
        value = weights.logsumexp(1) - math.log(count)
        deviation = (weights - value[:, None]).exp().std(1)
    error = float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count)
    error = error + torch.stack([one.solver for one in found]).mean(0)
    return Bits(-value / unit, error / unit, dequantisation.name, evaluations, products)


def _truncated(x: Tensor, middle: Tensor, deviation: Tensor, half: float, fraction: Tensor) -> tuple[Tensor, Tensor]:
    """x plus a normal number cut off at +-half, by the inverse of its distribution, and its log density (B,)."""
    low, high = (torch.special.ndtr((side - middle) / deviation) for side in (-half, half))
    shift = middle + deviation * torch.special.ndtri(low + fraction * (high - low))
    shift = shift.clamp(-half, half)
    log_q = -(((shift - middle) / deviation) ** 2 + math.log(2 * math.pi)) / 2 - (deviation * (high - low)).log()
    return x + shift, log_q.flatten(1).sum(1)


def _check(draws: int) -> None:
    if draws < 2:
        raise ValueError("an error bar needs at least two draws")
