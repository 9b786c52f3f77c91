"""Restart sampling (2306.14878): solve the ODE, and return to a higher noise level a few times within an interval.

Noise from low to high forgets errors made above it, which an SDE also does, but the descent stays deterministic and so
keeps a high order in the number of steps. Levels are given as the ratio sigma / alpha, on every path.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

from torch import Tensor

from core.denoiser import Bound
from core.sample.heun import both_ends, unless_far
from core.sample.solvers.edm import raise_noise
from core.sample.step import Level, NoiseSource, Step, level_at, levels, toward
from core.sample.walk import evaluate, is_inner

RHO = 7  # of EDM's spacing (2206.00364, equation 5)


@dataclass(frozen=True)
class RestartInterval:
    """From the visited level nearest to the ratio ``low``, go up to ``high`` and come down again, ``repeats`` times.

    ``steps`` steps, spaced as EDM's, lead down; with 0 the descent takes the levels that the times have there.
    """

    low: float
    high: float
    repeats: int = 1
    steps: int = 0


def restart(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    *,
    intervals: Sequence[RestartInterval] = (RestartInterval(low=0.1, high=2.0, repeats=2),),
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Heun's method with restarts; two evaluations a step, those of the restarts included.

    An interval below which no level is visited is left out, as in a single step to clean data.
    """
    path = levels(denoise.schedule, times)
    for index, (here, there) in enumerate(pairwise(path)):
        x, clean = _descend(denoise, x, [here, there])
        parts = count()  # every draw of a step has its own part, also where intervals share a bottom
        for interval in intervals:
            descent = _descent_levels(denoise, interval, path, there) if _is_bottom(there, interval, path) else []
            for _ in range(interval.repeats if len(descent) > 1 else 0):
                unit = noise.normal(x, index, next(parts))
                x, top = raise_noise(denoise, x, there, descent[0].half_log_snr, s_noise * unit)
                x, clean = _descend(denoise, x, [top, *descent[1:]])
        yield Step(index, there.t, x, clean)


def _descend(denoise: Bound, x: Tensor, path: Sequence[Level]) -> tuple[Tensor, Tensor]:
    """Heun's method down a path of levels: x at its end and the last estimate at a step's start."""
    method = unless_far(both_ends)
    for here, there in pairwise(path):
        current = evaluate(denoise, x, here)
        x = method(denoise, current, there) if is_inner(here, there) else toward(x, current.clean, here, there)
    return x, current.clean


def _is_bottom(level: Level, interval: RestartInterval, path: Sequence[Level]) -> bool:
    """Whether a restart begins at this level: of the visited ones, it is nearest to the interval's low end."""
    visited = [each for each in path[1:] if 0 < each.ratio < interval.high]
    return level is min(visited, key=lambda each: abs(each.ratio - interval.low), default=None)


def _descent_levels(denoise: Bound, interval: RestartInterval, path: Sequence[Level], bottom: Level) -> list[Level]:
    """The levels of a restart, from the interval's high end to the bottom."""
    top = level_at(denoise.schedule, -math.log(interval.high))
    if interval.steps == 0:
        return [top, *(level for level in path if bottom.ratio <= level.ratio < top.ratio)]
    high, low = interval.high ** (1 / RHO), bottom.ratio ** (1 / RHO)
    ratios = [(high + (low - high) * i / interval.steps) ** RHO for i in range(1, interval.steps)]
    return [top, *(level_at(denoise.schedule, -math.log(ratio)) for ratio in ratios), bottom]
