"""Multistep consistency sampling (2303.01469, algorithm 1; LCM 2310.04378): jump to x0, noise to the next level, again.

For a denoiser that is a consistency function, the end of the probability-flow trajectory through x_t, one step is a
sample and every further step improves it. The boundary condition is the model's own affair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from core.denoiser import Bound
from core.sample.step import NoiseSource, Step, levels


def consistency(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource, *, floor: float = 0.0) -> Iterator[Step]:
    """Alternate x0 and fresh noise. One evaluation a step.

    floor: the ratio sigma / alpha of the noise that the model's x0 already carries: consistency models map to
    ``sigma_min`` = 0.002 instead of to clean data and add noise of variance sigma^2 - sigma_min^2; LCM adds all of it.
    """
    path = levels(denoise.schedule, times)
    for index, (here, there) in enumerate(zip(path, path[1:])):
        clean = denoise(x, here.t)
        x = there.alpha * clean
        fresh = there.sigma**2 - (floor * there.alpha) ** 2
        if fresh > 0:
            x = x + math.sqrt(fresh) * noise.normal(x, index)
        yield Step(index, there.t, x, clean)
