"""The two loops that most samplers are: one-step methods, and multistep methods that remember.

A method is a function that advances from what was seen to the next level. The loops take care of the levels where
log-SNR is infinite or does not change: leaving pure noise (alpha = 0), reaching clean data (sigma = 0) and repeated
times are one evaluation and ``toward``, the exact solution for a constant x0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from core.denoiser import Bound
from core.sample.step import Level, Step, levels, toward
from core.schedule import Schedule


@dataclass(frozen=True)
class Evaluation:
    """What a sampler knows of a level it has visited."""

    level: Level
    x: Tensor  # (B, ...)
    clean: Tensor  # (B, ...), x0 as the denoiser estimated it there

    @property
    def noise(self) -> Tensor:
        """eps, as the estimate of x0 implies it."""
        return (self.x - self.level.alpha * self.clean) / self.level.sigma


OneStep = Callable[[Bound, Evaluation, Level], Tensor]  # denoise, where we are, where to -> x there
Multistep = Callable[[Sequence[Evaluation], Level], Tensor]  # what was seen, newest first, where to -> x there


def is_inner(here: Level, there: Level) -> bool:
    """Whether a step is between two different levels of finite log-SNR."""
    return here.alpha > 0 and there.sigma > 0 and there.ratio < here.ratio


def level_of(schedule: Schedule, t: Tensor) -> Level:
    """The level at a time ()."""
    return levels(schedule, torch.stack([t, t]))[0]


def evaluate(denoise: Bound, x: Tensor, level: Level) -> Evaluation:
    """Ask the denoiser once."""
    return Evaluation(level, x, denoise(x, level.t))


def extend_history(history: Sequence[Evaluation], current: Evaluation, size: int) -> list[Evaluation]:
    """Put the newest in front; the same level seen again replaces the older, and pure noise has no finite log-SNR."""
    if current.level.alpha == 0:
        return []
    kept = [old for old in history if old.level.ratio > current.level.ratio]
    return [current, *kept][:size]


def one_step(denoise: Bound, x: Tensor, times: Tensor, method: OneStep) -> Iterator[Step]:
    """Walk with a one-step method."""
    for index, (here, there) in enumerate(pairwise(levels(denoise.schedule, times))):
        current = evaluate(denoise, x, here)
        x = method(denoise, current, there) if is_inner(here, there) else toward(x, current.clean, here, there)
        yield Step(index, there.t, x, current.clean)


def multistep(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    method: Multistep,
    order: int,
    start: OneStep | None = None,
    defined: Callable[[Level, Level], bool] = is_inner,
) -> Iterator[Step]:
    """Walk with a multistep method of up to ``order`` levels.

    A first step of order one costs an error of h^2 once, and so no method without ``start`` is better than order two,
    and none with fewer values than ``order - 1`` leaves an error below h^order. ``start`` takes these steps instead.
    ``defined`` says between which levels the method is; other steps, as to clean data, are ``toward``.
    """
    if not 1 <= order <= 4:
        raise ValueError(f"a multistep sampler has order 1, 2, 3 or 4, not {order}")
    history: list[Evaluation] = []
    for index, (here, there) in enumerate(pairwise(levels(denoise.schedule, times))):
        current = evaluate(denoise, x, here)
        history = extend_history(history, current, order)
        if not defined(here, there):
            x = toward(x, current.clean, here, there)
        elif start is not None and len(history) < order - 1 and is_inner(here, there):
            x = start(denoise, current, there)
        else:
            x = method(history, there)
        yield Step(index, there.t, x, current.clean)
