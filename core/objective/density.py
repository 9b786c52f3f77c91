"""Densities over t: which noise levels training visits, and how often.

A density is its own quantile function: it maps places u in (0, 1), low to high noise, to times of a schedule. So its
probability density needs no second formula: per unit of log-SNR it is ``1 / |d log-SNR / du|``, by differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.random import Stream, TrainingRNG
from core.schedule import Discrete, Schedule, log_snr

Density = Callable[[Schedule, Tensor], Tensor]  # schedule, u (B,) in [0, 1) float64 -> t (B,)
Quantiles = Callable[[TrainingRNG], Tensor]  # a batch -> u (B,)

_EDGE = 1e-9  # an unbounded density never sees u = 0 or 1, where its quantile is infinite


def independent(rng: TrainingRNG) -> Tensor:
    """Places drawn independently."""
    return rng.uniform(Stream.TIME)


def stratified(rng: TrainingRNG) -> Tensor:
    """Places of low discrepancy over the global batch: less variance in every step (2107.00630, appendix I.1)."""
    return rng.low_discrepancy(Stream.TIME)


def uniform(schedule: Schedule, u: Tensor) -> Tensor:
    """Uniform over [cleanest, noisiest]."""
    return _time_at(schedule, u)


def indices(schedule: Schedule, u: Tensor) -> Tensor:
    """Uniform over the whole indices of a ``Discrete`` table, as DDPM trains (2006.11239, algorithm 1)."""
    if not isinstance(schedule, Discrete):
        raise ValueError("only a Discrete schedule has indices: use the uniform density")
    return (u * schedule.steps).floor()


@dataclass(frozen=True)
class Truncated:
    """Another density between two of its quantiles: ``Truncated(indices, 0, 0.2)`` is a table's cleanest fifth."""

    density: Density
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"quantiles lie in 0 to 1, the low one first, not at {self.low} and {self.high}")

    def __call__(self, schedule: Schedule, u: Tensor) -> Tensor:
        return self.density(schedule, self.low + (self.high - self.low) * u)


@dataclass(frozen=True)
class LogNormal:
    """sigma / alpha is log-normal: EDM's density (2206.00364, table 1)."""

    mean: float = -1.2
    deviation: float = 1.2

    def __call__(self, schedule: Schedule, u: Tensor) -> Tensor:
        return schedule.time((self.mean + self.deviation * _normal_quantile(u)).exp())


@dataclass(frozen=True)
class LogitNormal:
    """The logit of time (0 at cleanest, 1 at noisiest) is normal (2403.03206, equation 19)."""

    mean: float = 0.0
    deviation: float = 1.0

    def __call__(self, schedule: Schedule, u: Tensor) -> Tensor:
        return _time_at(schedule, (self.mean + self.deviation * _normal_quantile(u)).sigmoid())


@dataclass(frozen=True)
class Mode:
    """More mass in the middle (scale > 0) or at the ends (scale < 0) of time (2403.03206, equation 20)."""

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise ValueError(f"the scale of a mode density lies in -1 to {2 / (math.pi - 2):.4f}, not {self.scale}")

    def __call__(self, schedule: Schedule, u: Tensor) -> Tensor:
        # The paper's quantile falls with u; here u grows with noise, so 1 - u stands in its place.
        return _time_at(schedule, u - self.scale * ((u * (math.pi / 2)).sin() ** 2 - u))


def cosmap(schedule: Schedule, u: Tensor) -> Tensor:
    """The density of the straight path that gives the cosine schedule's log-SNR (2403.03206, equation 21)."""
    return _time_at(schedule, 1 - 1 / ((u * (math.pi / 2)).tan() + 1))


@dataclass(frozen=True)
class UniformLogSNR:
    """Uniform in log-SNR over [low, high]; without them, over the schedule's ends (2107.00630).

    Where an end of the schedule is infinite, the other is mirrored.
    """

    low: float | None = None
    high: float | None = None

    def __call__(self, schedule: Schedule, u: Tensor) -> Tensor:
        ends = torch.tensor([schedule.noisiest, schedule.cleanest], dtype=torch.float64)
        low, high = log_snr(schedule, ends).tolist()
        low = self.low if self.low is not None else (-high if math.isinf(low) else low)
        high = self.high if self.high is not None else (-low if math.isinf(high) else high)
        return schedule.time((-(high + (low - high) * u) / 2).exp())


def per_log_snr(density: Density, schedule: Schedule, u: Tensor) -> Tensor:
    """The probability density over log-SNR at places u (B,). Raises ValueError where it is a sum of points."""
    with torch.enable_grad():
        quantiles = u.detach().requires_grad_()
        value = log_snr(schedule, density(schedule, quantiles))
        (slope,) = torch.autograd.grad(value.sum(), quantiles)
    if bool((slope == 0).any()):
        raise ValueError("a density over whole indices has no density over log-SNR: use the uniform density")
    return 1 / slope.abs()


def _time_at(schedule: Schedule, quantile: Tensor) -> Tensor:
    return schedule.cleanest + (schedule.noisiest - schedule.cleanest) * quantile


def _normal_quantile(u: Tensor) -> Tensor:
    return torch.special.ndtri(u.clamp(_EDGE, 1 - _EDGE))
