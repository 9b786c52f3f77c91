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
from core.sample.heun import both_ends, turn, unless_far
from core.sample.step import Level, NoiseSource, Step, levels, toward
from core.sample.walk import OneStep, Seen, is_inner, level_of, look

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
        seen = look(denoise, x, here)
        x = toward(x, seen.clean, here, there)
        if there.ratio < here.ratio:
            noises = [seen.noise, *noises][:4]
            if len(noises) > start_steps and here.alpha > 0:
                change = sum(w * e for w, e in zip(ADAMS_BASHFORTH[len(noises) - 1], noises)) - seen.noise
                x = turn(x, here, there, change)
            elif is_inner(here, there):
                x = start(denoise, seen, there)
        yield Step(index, there.t, x, seen.clean)


def _runge_kutta(denoise: Bound, seen: Seen, there: Level) -> Tensor:
    """A pseudo Runge-Kutta step; its middle is the middle in time (2202.09778)."""
    middle = level_of(denoise.schedule, torch.lerp(seen.level.t, there.t, 0.5))
    halfway = toward(seen.x, seen.clean, seen.level, middle)
    second = look(denoise, halfway, middle).noise
    third = look(denoise, turn(halfway, seen.level, middle, second - seen.noise), middle).noise
    whole = toward(seen.x, seen.clean, seen.level, there)
    fourth = look(denoise, turn(whole, seen.level, there, third - seen.noise), there).noise
    return turn(whole, seen.level, there, (seen.noise + 2 * second + 2 * third + fourth) / 6 - seen.noise)
