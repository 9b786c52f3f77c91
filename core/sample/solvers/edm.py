"""EDM's stochastic sampler (2206.00364, algorithm 2): add a little noise, then take a Heun step from there.

Everything is in terms of the ratio r = sigma / alpha, EDM's own sigma, so that it runs on every path: x is diffused
from r to ``(1 + gamma) r`` with ``gamma = min(churn / steps, sqrt(2) - 1)``. Without churn it is ``heun``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from core.denoiser import Bound
from core.sample.heun import both_ends, unless_far
from core.sample.renoise import diffuse
from core.sample.step import Level, NoiseSource, Step, level_at, levels, toward
from core.sample.walk import evaluate, is_inner


def edm(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    *,
    churn: float = 40.0,
    s_tmin: float = 0.05,
    s_tmax: float = 50.0,
    s_noise: float = 1.003,
) -> Iterator[Step]:
    """Heun with churn where the ratio is in [s_tmin, s_tmax]; the defaults are the paper's for ImageNet-64 (table 5).

    Two evaluations a step, one where an end is pure noise or clean data. A schedule that ends at its noisiest time
    gives less churn there.
    """
    path = levels(denoise.schedule, times)
    method = unless_far(both_ends)
    gamma = min(churn / (len(path) - 1), math.sqrt(2) - 1)
    for index, (here, there) in enumerate(pairwise(path)):
        if gamma > 0 and s_tmin <= here.ratio <= s_tmax:
            x, here = raise_noise(
                denoise, x, here, here.half_log_snr - math.log1p(gamma), s_noise * noise.normal(x, index)
            )
        current = evaluate(denoise, x, here)
        x = method(denoise, current, there) if is_inner(here, there) else toward(x, current.clean, here, there)
        yield Step(index, there.t, x, current.clean)


def raise_noise(denoise: Bound, x: Tensor, here: Level, half_log_snr: float, unit: Tensor) -> tuple[Tensor, Level]:
    """Diffuse x up to a noisier level with the given unit noise: x and the level."""
    there = level_at(denoise.schedule, half_log_snr)
    carry, spread = diffuse(here, there)
    return carry * x + spread * unit, there
