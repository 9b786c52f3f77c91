"""Runge-Kutta methods, on fixed and on adaptive steps.

With m = alpha / sigma the path ``x / sigma`` obeys ``d(x / sigma) / dm = x0``: its slope is the clean data. A stage of
a Runge-Kutta method, ``x / sigma + dm sum_j a_j x0_j``, is therefore one step ``toward`` the mean of the x0 seen so
far, weighted with a_j. Pure noise is m = 0, an ordinary point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from core.denoiser import Bound
from core.sample.step import Level, NoiseSource, Sampler, Step, level_at, levels, toward
from core.sample.walk import Evaluation, evaluate, level_of, one_step


@dataclass(frozen=True)
class Tableau:
    """Butcher's tableau: a row of weights for each later stage, of which the last is the result."""

    rows: Sequence[Sequence[float]]
    error: Sequence[float] = ()  # the result less the embedded one; needs one evaluation at the result


KUTTA = Tableau(rows=((1 / 2,), (0, 1 / 2), (0, 0, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6)))

DORMAND_PRINCE = Tableau(
    rows=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    error=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)


def rk4(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """Kutta's classical method: order 4, four evaluations a step."""
    return one_step(denoise, x, times, _kutta)


def _kutta(denoise: Bound, current: Evaluation, there: Level) -> Tensor:
    return _stages(denoise, current, there, KUTTA)[0]


def adaptive(
    denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource, rtol: float = 1e-5, atol: float = 1e-5
) -> Iterator[Step]:
    """Dormand and Prince's 5(4) with steps as large as the tolerances allow; a ``Step`` for each that is accepted.

    Only the ends of ``times`` are used; ``Step.index`` counts the accepted steps. Six evaluations a step. The error is
    that of ``x / hypot(alpha, sigma)``, root mean square over each sample, and no sample may exceed the tolerance. On
    the way to clean data, the way from ``schedule.cleanest`` is one step ``toward``, as in 2011.13456.
    """
    start, *_, end = levels(denoise.schedule, times)
    last = end if end.sigma > 0 else level_of(denoise.schedule, end.t.new_tensor(denoise.schedule.cleanest))
    current = evaluate(denoise, x, start)
    index, step = 0, 0.1
    # Steps are measured in asinh(m), linear near pure noise and logarithmic near clean data.
    while current.level.ratio > last.ratio:
        position, goal = (math.asinh(level.alpha / level.sigma) for level in (current.level, last))
        there = last if position + step >= goal else level_at(denoise.schedule, math.log(math.sinh(position + step)))
        step = min(step, goal - position)
        x, cleans = _stages(denoise, current, there, DORMAND_PRINCE)
        cleans.append(denoise(x, there.t))
        error = _error(current, there, x, cleans, rtol, atol)
        if error <= 1 or step < 1e-5:
            current = Evaluation(there, x, cleans[-1])
            yield Step(index, there.t, x, current.clean)
            index += 1
        step *= min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** -0.2))
    if index == 0 or end.sigma == 0:
        yield Step(index, end.t, toward(current.x, current.clean, current.level, end), current.clean)


def at_tolerance(tolerance: float) -> Sampler:
    """``adaptive`` with one tolerance, relative and absolute."""
    return partial(adaptive, rtol=tolerance, atol=tolerance)


def _stages(denoise: Bound, current: Evaluation, there: Level, tableau: Tableau) -> tuple[Tensor, list[Tensor]]:
    """x at the end of a step, and x0 at each of its stages."""
    here = current.level
    cleans = [current.clean]
    *inner, result = tableau.rows
    for row in inner:
        part = sum(row)
        level = there if math.isclose(part, 1) else _between(denoise, here, there, part)
        cleans.append(denoise(toward(current.x, _mean(row, cleans) / part, here, level), level.t))
    return toward(current.x, _mean(result, cleans), here, there), cleans


def _between(denoise: Bound, here: Level, there: Level, part: float) -> Level:
    """The level at a part of the way in alpha / sigma."""
    start, end = here.alpha / here.sigma, there.alpha / there.sigma
    return level_at(denoise.schedule, math.log(start + part * (end - start)))


def _mean(row: Sequence[float], cleans: Sequence[Tensor]) -> Tensor:
    return torch.stack([weight * clean for weight, clean in zip(row, cleans) if weight]).sum(0)


def _error(current: Evaluation, there: Level, x: Tensor, cleans: Sequence[Tensor], rtol: float, atol: float) -> float:
    """The largest error of a sample, in units of its tolerance."""
    size, old_size = math.hypot(there.alpha, there.sigma), math.hypot(current.level.alpha, current.level.sigma)
    gain = (there.alpha - current.level.alpha * there.sigma / current.level.sigma) / size
    error = gain * _mean(DORMAND_PRINCE.error, cleans)
    # Below a few roundings of x no error can be measured.
    floor = 16 * torch.finfo(x.dtype).eps
    scale = max(atol, floor) + max(rtol, floor) * torch.maximum(x.abs() / size, current.x.abs() / old_size)
    return float((error / scale).square().flatten(1).mean(1).max().sqrt())
