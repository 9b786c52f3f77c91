"""Heun and midpoint in the noise ratio: EDM's second-order samplers (2206.00364, algorithm 1).

With r = sigma / alpha the path ``x / alpha`` obeys ``d(x / alpha) / dr = eps``: its slope is the noise. Both methods
take an Euler step, evaluate the slope there, and repeat it with the better slope. Written as a change of the Euler
step,

    x_t = toward(x_s, x0) + alpha_t (r_t - r_s) (slope - eps_s),

they are exact on any path if eps is constant.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from core.denoiser import Bound
from core.sample.step import Level, NoiseSource, Step, level_at, toward
from core.sample.walk import Evaluation, OneStep, evaluate, one_step


def heun(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """Order 2, two evaluations a step: the mean of the slopes at both ends."""
    return one_step(denoise, x, times, unless_far(both_ends))


def dpm2(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """Order 2, two evaluations a step: the slope in the middle of log-SNR (k-diffusion's dpm_2, KDPM2)."""
    return one_step(denoise, x, times, unless_far(_middle))


def is_far(here: Level, there: Level) -> bool:
    """Whether a step leaps out of high noise: sigma / alpha falls from far above 1 by more than tenfold."""
    return here.ratio > 10 * max(1.0, there.ratio)


def unless_far(method: OneStep) -> OneStep:
    """A method that follows the noise, and Euler where a step leaps out of high noise.

    There r = sigma / alpha falls from far above 1 by more than tenfold. An error of x0 changes the slope at the end by
    error / r, and the step follows it over more than 10 r; so far out x0 is the better thing to hold on to.
    """

    def step(denoise: Bound, current: Evaluation, there: Level) -> Tensor:
        if is_far(current.level, there):
            return toward(current.x, current.clean, current.level, there)
        return method(denoise, current, there)

    return step


def slope_correction(euler: Tensor, here: Level, there: Level, change: Tensor) -> Tensor:
    """The end of an Euler step had its slope been different by ``change``."""
    return euler + there.alpha * (there.ratio - here.ratio) * change


def both_ends(denoise: Bound, current: Evaluation, there: Level) -> Tensor:
    """A step along the mean of the slopes at its start and at the end of an Euler step."""
    x = toward(current.x, current.clean, current.level, there)
    return slope_correction(x, current.level, there, (evaluate(denoise, x, there).noise - current.noise) / 2)


def _middle(denoise: Bound, current: Evaluation, there: Level) -> Tensor:
    middle = level_at(denoise.schedule, (current.level.half_log_snr + there.half_log_snr) / 2)
    halfway = evaluate(denoise, toward(current.x, current.clean, current.level, middle), middle)
    return slope_correction(
        toward(current.x, current.clean, current.level, there), current.level, there, halfway.noise - current.noise
    )
