"""UniPC (2302.04867): a predictor and a corrector that share their evaluations.

The predictor of order p continues the polynomial in log-SNR through the last p values of x0; when the next x0 is known,
the corrector takes the step again through p + 1 values, for no further evaluation. Solving the paper's system
``R a B(h) = phi`` (theorem 3.1) gives the exact integrals of ``exponential.along``: B(h) cancels, except where it puts
1/2 for the solution of a single equation. There, and only there, its choices of B differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

from torch import Tensor

from core.denoiser import Bound
from core.sample.solvers.exponential import along, third_order
from core.sample.solvers.polynomial import exponential_moments
from core.sample.step import NoiseSource, Step, levels, toward
from core.sample.walk import Evaluation, OneStep, evaluate, extend_history, is_inner


def bh1(z: float) -> float:
    """B(h) = h, divided by h."""
    return 1.0


def bh2(z: float) -> float:
    """B(h) = 1 - exp(-h), divided by h = -z."""
    return math.expm1(z) / z


def unipc(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    order: int = 2,
    size: Callable[[float], float] = bh2,
    correct: bool = True,
    start: OneStep | None = third_order,
) -> Iterator[Step]:
    """Order ``order + 1``, or ``order`` without the corrector; one evaluation a step.

    ``order`` is the predictor's, at most 3. The first ``order - 2`` steps are taken by ``start``, without which the
    result is of order 3 at most. On the way to clean data the last steps are of falling order, as published.
    """
    if not 1 <= order <= 3:
        raise ValueError(f"UniPC has a predictor of order 1, 2 or 3, not {order}")
    solution = partial(along, moments=partial(_moments, size))
    path = levels(denoise.schedule, times)
    history: list[Evaluation] = []
    predictor: list[Evaluation] = []  # what the last prediction was made from, if it is to be corrected
    for index, (here, there) in enumerate(pairwise(path)):
        current = evaluate(denoise, x, here)
        if predictor and correct:
            current = Evaluation(here, solution([*predictor, current], here), current.clean)
        history = extend_history(history, current, order)
        predictor = []
        if not is_inner(here, there):
            x = toward(current.x, current.clean, here, there)
        elif start is not None and len(history) < order - 1:
            x = start(denoise, current, there)
        else:
            predictor = history[: len(path) - 1 - index] if path[-1].sigma == 0 else history
            x = solution(predictor, there)
        yield Step(index, there.t, x, current.clean)


def _moments(size: Callable[[float], float], z: float, count: int) -> list[float]:
    exact = exponential_moments(z, count)
    return [exact[0], size(z) / 2] if count == 2 else exact
