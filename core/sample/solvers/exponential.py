"""Exponential multistep: x0 is a polynomial in log-SNR, integrated exactly.

The multistep form of the refined exponential solver, RES (2308.02157), with exact phi functions. Order 2 is
DPM-Solver++ 2M in its "heun" form; order 3 is what DPM-Solver++ 3M means to be (see ``solvers.dpm.dpmpp_3m``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from core.denoiser import Bound
from core.sample.solvers.polynomial import exponential_moments, weights
from core.sample.step import Level, NoiseSource, Step, level_at, toward
from core.sample.walk import Evaluation, OneStep, evaluate, multistep

Moments = Callable[[float, int], list[float]]


def along(history: Sequence[Evaluation], there: Level, moments: Moments = exponential_moments) -> Tensor:
    """The exact solution from ``history[0]`` to there if x0 were the polynomial in log-SNR through all that was seen.

    With one value it is ``toward``. The others enter by their difference from the first, so that a constant x0 is
    followed exactly whatever the rounding of the weights. They may also lie ahead, as in a corrector.
    """
    here = history[0]
    x = toward(here.x, here.clean, here.level, there)
    if len(history) == 1:
        return x
    step = there.half_log_snr - here.level.half_log_snr
    nodes = [(current.level.half_log_snr - here.level.half_log_snr) / step for current in history]
    shares = weights(nodes, moments(-step, len(history)))
    for share, current in zip(shares[1:], history[1:]):
        x = x + there.alpha * step * share * (current.clean - here.clean)
    return x


def second_order(denoise: Bound, current: Evaluation, there: Level) -> Tensor:
    """A step with x0 taken from its middle: DPM-Solver++ 2S with r = 1/2 (2211.01095, algorithm 1)."""
    middle = between(denoise, current.level, there, 1 / 2)
    halfway = evaluate(denoise, toward(current.x, current.clean, current.level, middle), middle)
    return toward(current.x, halfway.clean, current.level, there)


def third_order(denoise: Bound, current: Evaluation, there: Level) -> Tensor:
    """A step with x0 linear through its start and a third of it, then through its start and two thirds.

    DPM-Solver-3 (2206.00927, algorithm 2) in the data form.
    """
    third = between(denoise, current.level, there, 1 / 3)
    two_thirds = between(denoise, current.level, there, 2 / 3)
    first = evaluate(denoise, along([current], third), third)
    second = evaluate(denoise, along([current, first], two_thirds), two_thirds)
    return along([current, second], there)


def between(denoise: Bound, here: Level, there: Level, part: float) -> Level:
    """The level at a part of the way in log-SNR."""
    return level_at(denoise.schedule, (1 - part) * here.half_log_snr + part * there.half_log_snr)


def exponential_multistep(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    order: int = 3,
    start: OneStep | None = second_order,
) -> Iterator[Step]:
    """Order ``order``, one evaluation a step; the first ``order - 2`` steps are taken by ``start``."""
    return multistep(denoise, x, times, along, order, start)
