"""Image to image: noise the image to some level and sample down from there (SDEdit, 2108.01073)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from core.denoiser import Bound
from core.grid import Grid, between
from core.random import Noise
from core.sample.step import Sampler, Step
from core.schedule import Schedule


def strengthened(grid: Grid, schedule: Schedule, strength: float) -> Grid:
    """A grid of as many steps that begins where a share ``strength`` of the schedule's time is left.

    Strength 1 is the grid itself. Raises ValueError unless it lies in (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(f"the strength of an edit must lie above 0 and at most at 1, not {strength}")
    if strength == 1:
        return grid
    start = schedule.cleanest + strength * (schedule.noisiest - schedule.cleanest)
    return between(grid, start, schedule.cleanest)


def begin(known: Tensor, schedule: Schedule, t: Tensor, noise: Noise) -> Tensor:
    """The image at time t (): ``alpha x0 + sigma noise``, with the noise that plain sampling starts from."""
    alpha, sigma = (float(value) for value in schedule(t))
    return alpha * known + (sigma * noise.start(known.shape[1:])).to(known)


def image_to_image(
    denoise: Bound, known: Tensor, noise: Noise, *, sampler: Sampler, grid: Grid, steps: int, strength: float
) -> Iterator[Step]:
    """Exactly ``steps`` steps from known (B, ...) at the level of ``strength`` to a new image like it.

    Strength 1 is plain sampling where the noisiest level is pure noise; strength 0 gives the image back.
    """
    if strength == 0:
        clean_time = denoise.schedule.time(torch.zeros((), dtype=torch.float64))
        yield Step(0, clean_time, known, known)
        return
    times = strengthened(grid, denoise.schedule, strength)(denoise.schedule, steps)
    yield from sampler(denoise, begin(known, denoise.schedule, times[0], noise), times, noise)
