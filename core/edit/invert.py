"""Inversion: the noise from which a deterministic sampler makes a given image (DDIM inversion, 2010.02502).

Walking the grid upwards, x0 is asked at the level that is left, where going down asks it at the level that is reached:
the image comes back up to an error of the order of the step. ``invert_exactly`` solves each step for the x that going
down would bring here (2305.16807), so that the image comes back to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.denoiser import Bound
from core.sample.step import Level, levels, toward


@torch.no_grad()
def invert(denoise: Bound, known: Tensor, times: Tensor) -> Tensor:
    """Known (B, ...) at the clean end of ``times`` (noisy to clean) -> x_t at their noisy end, by DDIM upwards."""
    x, path = known, rising(denoise, times)
    here = path[0]
    for index, there in enumerate(path[1:]):
        # The clean end is no level of the model: x0 is known there, and asked at the cleanest level from then on.
        clean = known if index == 0 else denoise(x, here.t)
        x = up(x, clean, here, there)
        here = there
    return x


@torch.no_grad()
def invert_exactly(
    denoise: Bound, known: Tensor, times: Tensor, tolerance: float = 1e-7, patience: int = 200
) -> Tensor:
    """The x_t from which ``euler`` on these times comes back to known, by fixed points x = up(x0(x)) of each step.

    Steps must be fine enough for the iteration to contract. Raises ValueError where it does not come to rest.
    """
    x, path = known, rising(denoise, times)
    for here, there in zip(path, path[1:]):
        if here.sigma == 0:
            guess = up(x, known, here, there)
        else:
            guess = up(x, denoise(x, here.t), here, there)
        for _ in range(patience):
            before, guess = guess, up(x, denoise(guess, there.t), here, there, guess)
            moved = float((guess - before).abs().max())
            if moved <= tolerance * (1 + float(guess.abs().max())):
                break
        else:
            raise ValueError(f"a step up to sigma {there.sigma:g} cannot be inverted exactly: take more steps")
        x = guess
    return x


def rising(denoise: Bound, times: Tensor) -> list[Level]:
    """The levels from clean to noisy. Raises ValueError unless they end at clean data and stay below pure noise."""
    path = levels(denoise.schedule, times)[::-1]
    if path[0].sigma != 0:
        raise ValueError("inversion starts at clean data: give a grid that ends there")
    if path[-1].alpha == 0:
        raise ValueError("pure noise remembers nothing of an image: give a grid that starts below it")
    return path


def up(x: Tensor, clean: Tensor, here: Level, there: Level, guess: Tensor | None = None) -> Tensor:
    """The x at ``there`` (noisier) which ``toward`` takes to x, if x0 were ``clean``.

    From clean data the step down forgets the noise; there the model's own estimate at the guess must be the image,
    which moves the guess by as much as the two differ.
    """
    if here.sigma == 0:
        if guess is None:
            return there.alpha * clean
        return guess + there.alpha * (x / here.alpha - clean)
    return toward(x, clean, here, there)
