"""What every sampler is made of: the levels it visits, the one exact update, and the record it yields.

A sampler is a generator function ``sampler(denoise, x, times, noise)``. It walks ``x`` down ``times`` (noisy to clean)
and yields a ``Step`` after each. What it remembers is in its local variables; progress bars, previews, recording and
early stopping are the caller's loop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from core.denoiser import Bound
from core.schedule import Schedule


class NoiseSource(Protocol):
    """Where a stochastic sampler takes its noise from; ``core.random.SamplingRNG`` is the one in use."""

    def normal(self, like: Tensor, step: int, part: int = 0) -> Tensor:
        """Unit noise shaped like ``like``, for a step of the sampler."""

    def brownian(self, like: Tensor, start: float, stop: float) -> Tensor:
        """Unit noise shaped like ``like``: the increment of a path between two places in [0, 1]."""


@dataclass(frozen=True)
class Step:
    """A sampler has come from ``times[index]`` to ``times[index + 1]``."""

    index: int
    t: Tensor  # (), the time where x now is
    x: Tensor  # (B, ...)
    clean: Tensor  # (B, ...), the last estimate of x0


class Sampler(Protocol):
    """Walks x from ``times[0]`` to ``times[-1]``; deterministic samplers leave ``noise`` alone."""

    def __call__(self, denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]: ...


@dataclass(frozen=True)
class Level:
    """A noise level: where on the schedule the sampler is. alpha and sigma are host floats, exact in float64."""

    t: Tensor  # (), float64, what the denoiser is asked with
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """lambda = log(alpha / sigma), with its infinities."""
        if self.sigma == 0:
            return math.inf
        return -math.inf if self.alpha == 0 else math.log(self.alpha) - math.log(self.sigma)

    @property
    def ratio(self) -> float:
        """sigma / alpha, infinite at pure noise."""
        return math.inf if self.alpha == 0 else self.sigma / self.alpha

    @property
    def brownian_time(self) -> float:
        """The level as a place in [0, 1] on a Brownian path: 0 clean, 1 pure noise."""
        return math.atan2(self.sigma, self.alpha) * (2 / math.pi)


def levels(schedule: Schedule, times: Tensor) -> list[Level]:
    """The levels at times (N + 1,). Raises ValueError unless there are two or more and noise never grows."""
    times = times.detach().double().cpu()
    if times.ndim != 1 or len(times) < 2:
        raise ValueError("a sampler needs a 1-d tensor of at least two times: the start and the end")
    alpha, sigma = schedule(times)
    found = [Level(t, a, s) for t, a, s in zip(times, alpha.tolist(), sigma.tolist())]
    if any(math.isnan(level.alpha + level.sigma) for level in found):
        raise ValueError("the schedule is undefined at one of the times; take them from a grid, or from schedule.time")
    if any(there.ratio > here.ratio for here, there in zip(found, found[1:])):
        raise ValueError("times must go from noisy to clean")
    return found


def level_at(schedule: Schedule, half_log_snr: float) -> Level:
    """The level where log(alpha / sigma) has a given value: the inner stages of multi-stage samplers."""
    t = schedule.time(torch.tensor(math.exp(-half_log_snr), dtype=torch.float64))
    alpha, sigma = schedule(t)
    return Level(t, float(alpha), float(sigma))


def toward(x: Tensor, clean: Tensor, here: Level, there: Level) -> Tensor:
    """The exact solution of the probability-flow ODE from here to there if x0 were constant.

    DDIM (2010.02502, equation 12) on any path: with alpha = 1 EDM's Euler step, with (1 - t, t) rectified flow's, and
    DPM-Solver++ of order 1. It never divides by alpha and takes no logarithm, so alpha = 0 and sigma = 0 are exact.
    """
    if there.sigma == 0:
        return there.alpha * clean
    carry = there.sigma / here.sigma
    return carry * x + (there.alpha - here.alpha * carry) * clean


def run(steps: Iterator[Step]) -> Tensor:
    """Run a sampler to its end and return the last x."""
    return deque(steps, maxlen=1).pop().x
