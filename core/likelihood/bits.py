"""Bits per dimension, the likelihood of data that come in steps, with the dequantisation stated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.denoiser import Bound
from core.likelihood.density import Prior, Trace, exact_trace, log_prob
from core.random import SamplingRNG, Stream, uniform


@dataclass(frozen=True)
class Dequantisation:
    """How numbers that come in steps are made continuous: data (B, ...) -> a draw of it and log q of the draw (B,)."""

    name: str
    draw: Callable[[Tensor], tuple[Tensor, Tensor]]


def uniform_dequantisation(noise: SamplingRNG, step: float) -> Dequantisation:
    """Uniform noise over the cell of width ``step`` around each number: 1/128 for 256 levels, 2/255 if both ends count.

    A variational one is a ``Dequantisation`` whose draw is learned (1902.00275).
    """

    def draw(x: Tensor) -> tuple[Tensor, Tensor]:
        fraction = uniform(noise.seed, noise.samples, Stream.CODEC, 0, x.shape[1:]).to(x) - 0.5
        return x + step * fraction, torch.full((len(x),), -x[0].numel() * math.log(step), dtype=torch.float64)

    return Dequantisation(f"uniform over cells of {step:g}: {-math.log2(step):+.4f} bits per dimension", draw)


def no_dequantisation() -> Dequantisation:
    """For data that are continuous already: bits per dimension of the density, which may be negative."""
    return Dequantisation("none: of a density", lambda x: (x, torch.zeros(len(x), dtype=torch.float64)))


@dataclass(frozen=True)
class Bits:
    """Bits per dimension of each sample, their 95 % error bar, and how the data were dequantised."""

    value: Tensor  # (B,)
    error: Tensor  # (B,)
    dequantisation: str


def bits_per_dim(
    denoise: Bound,
    x: Tensor,
    dequantisation: Dequantisation,
    prior: Prior | None = None,
    trace: Trace = exact_trace,
    tolerance: float = 1e-5,
) -> Bits:
    """``-(log p(draw) - log q(draw)) / (D log 2)``: an upper bound, in the mean over draws, on the code length of x."""
    drawn, log_q = dequantisation.draw(x)
    found = log_prob(denoise, drawn, prior, trace, tolerance)
    unit = x[0].numel() * math.log(2)
    return Bits((log_q.to(found.value) - found.value) / unit, found.error / unit, dequantisation.name)
