"""DDPM's ancestral sampler: draw from the Gaussian posterior q(x_t | x_s, x0) with the estimate put for x0.

Between any two levels, adjacent or not, with the forward kernel ``q(x_s | x_t) = N(a x_t, beta)`` where
``a = alpha_s / alpha_t`` and ``beta = sigma_s^2 - a^2 sigma_t^2`` (2006.11239, equations 6 and 7, on any path):

    mean = alpha_t x0 + sigma_t rho eps,    beta-tilde = sigma_t^2 (1 - rho^2) = beta sigma_t^2 / sigma_s^2,

where rho is the quotient of the two ratios sigma / alpha. This form is finite at alpha_s = 0, pure noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from torch import Tensor

from core.denoiser import Bound, Estimate
from core.sample.renoise import diffuse, shrink, split
from core.sample.step import Level, NoiseSource, Step, levels, toward

Deviation = Callable[[Level, Level, Estimate], float | Tensor]


def small(here: Level, there: Level, estimate: Estimate) -> float:
    """The square root of beta-tilde, the posterior's own variance (a lower bound for unit-variance data)."""
    return split(there, shrink(here, there))[1]


def large(here: Level, there: Level, estimate: Estimate) -> float:
    """The square root of beta, the forward kernel's variance (the upper bound)."""
    return diffuse(there, here)[1] if there.alpha > 0 else 0.0


def learned(here: Level, there: Level, estimate: Estimate) -> float | Tensor:
    """The model's own deviation: log variance between log beta-tilde and log beta (2102.09672, equation 15).

    Raises ValueError if the model has not learned a variance.
    """
    if estimate.mix is None:
        raise ValueError("this denoiser has not learned a variance; sample it with the small or the large one")
    low, high = small(here, there, estimate), large(here, there, estimate)
    if low == 0:
        return 0.0
    return (estimate.mix * (math.log(high) - math.log(low)) + math.log(low)).exp()


def ddpm(
    denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource, *, deviation: Deviation = small
) -> Iterator[Step]:
    """Ancestral sampling; a step to clean data adds no noise. One evaluation a step."""
    path = levels(denoise.schedule, times)
    for index, (here, there) in enumerate(zip(path, path[1:])):
        estimate = denoise.estimate(x, here.t)
        x = toward(x, estimate.clean, here, split(there, shrink(here, there))[0])
        if there.sigma > 0:
            x = x + deviation(here, there, estimate) * noise.normal(x, index)
        yield Step(index, there.t, x, estimate.clean)
