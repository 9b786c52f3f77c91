"""Pseudo numerical methods, PNDM and PLMS (2202.09778): Adams-Bashforth on the noise, carried by a DDIM step.

The weights are those of equal steps whatever the times are, and so the methods are of second order however many noises
they remember. ``pndm`` starts with pseudo Runge-Kutta steps (the paper's F-PNDM); ``plms``, latent diffusion's choice,
with one Heun step.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from core.denoiser import Bound
from core.sample.heun import both_ends, slope_correction, unless_far
from core.sample.step import Level, NoiseSource, Step, levels, toward
from core.sample.walk import Evaluation, OneStep, evaluate, is_inner, level_of

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """Order 2, one evaluation a step and one more in the first."""
    return _adams_bashforth(denoise, x, times, unless_far(both_ends), start_steps=1)


def pndm(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """Order 2, one evaluation a step and three more in each of the first three."""
    return _adams_bashforth(denoise, x, times, unless_far(_runge_kutta), start_steps=3)


def _adams_bashforth(denoise: Bound, x: Tensor, times: Tensor, start: OneStep, start_steps: int) -> Iterator[Step]:
    noises: list[Tensor] = []  # newest first
    for index, (here, there) in enumerate(pairwise(levels(denoise.schedule, times))):
        current = evaluate(denoise, x, here)
        x = toward(x, current.clean, here, there)
        if there.ratio < here.ratio:
            noises = [current.noise, *noises][:4]
            if len(noises) > start_steps and here.alpha > 0:
                change = sum(w * e for w, e in zip(ADAMS_BASHFORTH[len(noises) - 1], noises)) - current.noise
                x = slope_correction(x, here, there, change)
            elif is_inner(here, there):
                x = start(denoise, current, there)
        yield Step(index, there.t, x, current.clean)


def _runge_kutta(denoise: Bound, current: Evaluation, there: Level) -> Tensor:
    """A pseudo Runge-Kutta step; its middle is the middle in time (2202.09778)."""
    middle = level_of(denoise.schedule, torch.lerp(current.level.t, there.t, 0.5))
    halfway = toward(current.x, current.clean, current.level, middle)
    second = evaluate(denoise, halfway, middle).noise
    third = evaluate(denoise, slope_correction(halfway, current.level, middle, second - current.noise), middle).noise
    whole = toward(current.x, current.clean, current.level, there)
    fourth = evaluate(denoise, slope_correction(whole, current.level, there, third - current.noise), there).noise
    return slope_correction(
        whole, current.level, there, (current.noise + 2 * second + 2 * third + fourth) / 6 - current.noise
    )
