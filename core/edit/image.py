"""Image to image: noise the image to some level and sample down from there (SDEdit, 2108.01073)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from core.denoiser import Bound
from core.grid import Grid, between
from core.random import SamplingRNG
from core.sample.step import Sampler, Step
from core.schedule import Schedule


def partial_grid(grid: Grid, strength: float) -> Grid:
    """A grid of as many steps that begins where a share ``strength`` of this grid's steps is left.

    On an even grid that is a share of the schedule's time; where steps are dense towards clean data, strengths are too.
    Strength 1 is the grid itself. Raises ValueError unless it lies in (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(f"the strength of an edit must lie in 0 (nothing changes) to 1 (all is new), not {strength}")
    if strength == 1:
        return grid

    def partial(schedule: Schedule, steps: int) -> Tensor:
        times = grid(schedule, steps)
        position = (1 - strength) * (len(times) - 1)
        first = int(position)
        start = float(torch.lerp(times[first], times[first + 1], position - first))
        # The last step of a grid ends at clean data, which is no level of the model.
        least = schedule.cleanest + 1e-3 * (schedule.noisiest - schedule.cleanest)
        return between(grid, max(start, least), schedule.cleanest)(schedule, steps)

    return partial


def noise_to_level(known: Tensor, schedule: Schedule, t: Tensor, noise: SamplingRNG) -> Tensor:
    """The image at time t (): ``alpha x0 + sigma noise``, with the noise that plain sampling starts from."""
    alpha, sigma = (float(value) for value in schedule(t))
    return alpha * known + (sigma * noise.start(known.shape[1:])).to(known)


def image_to_image(
    denoise: Bound, known: Tensor, noise: SamplingRNG, *, sampler: Sampler, grid: Grid, steps: int, strength: float
) -> Iterator[Step]:
    """Exactly ``steps`` steps from known (B, ...) at the level of ``strength`` to a new image like it.

    Strength 1 is plain sampling where the noisiest level is pure noise; strength 0 gives the image back.
    """
    if strength == 0:
        clean_time = denoise.schedule.time(torch.zeros((), dtype=torch.float64))
        yield Step(0, clean_time, known, known)
        return
    times = partial_grid(grid, strength)(denoise.schedule, steps)
    yield from sampler(denoise, noise_to_level(known, denoise.schedule, times[0], noise), times, noise)
