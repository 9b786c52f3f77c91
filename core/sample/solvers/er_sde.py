"""ER-SDE-Solvers (2309.06169): Taylor steps for the extended reverse-time SDE with a chosen amount of noise.

In ``y = x / alpha`` and ``r = sigma / alpha`` a noise scale ``phi(r) = r psi(r)`` defines the process, r (psi = 1) the
ODE and r^2 (psi = r) the diffusion SDE. With D the estimate of x0 as a function of r, a step is (propositions 3 and 4)

    y_t = (phi_t / phi_s) y_s + (1 - phi_t / phi_s) D_s + c_1 D_s' + c_2 D_s'' + sqrt(r_t^2 - (phi_t / phi_s)^2 r_s^2) z
    c_k = (r_t - r_s)^k / k! + phi_t int_(r_t)^(r_s) (u - r_s)^(k - 1) / ((k - 1)! phi(u)) du.

The first two terms and the noise are the renoising update with ``kept = psi_t / psi_s``; the derivatives are
differences of earlier estimates. An estimate at pure noise, r = inf, has no say in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from core.denoiser import Bound
from core.sample.renoise import split
from core.sample.step import NoiseSource, Step, levels, toward

Scale = Callable[[float], float]


def ode(ratio: float) -> float:
    """psi of the probability-flow ODE."""
    return 1.0


def diffusion(ratio: float) -> float:
    """psi of the diffusion SDE."""
    return ratio


def gentle(ratio: float) -> float:
    """psi = exp(r^0.3) + 10, the scale the authors recommend (ER SDE 5)."""
    return math.exp(min(ratio**0.3, 700.0)) + 10


def er_sde(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    *,
    order: int = 3,
    scale: Scale = gentle,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Taylor steps of order 1, 2 or 3 in x0. One evaluation a step. Raises ValueError for another order."""
    if order not in (1, 2, 3):
        raise ValueError(f"er_sde has orders 1, 2 and 3, not {order}")
    path = levels(denoise.schedule, times)
    history: list[tuple[float, Tensor, Tensor | None]] = []  # ratio, estimate, its slope; the latest last
    for index, (here, there) in enumerate(zip(path, path[1:])):
        clean = denoise(x, here.t)
        leaves = there.alpha > 0 and there.sigma > 0  # otherwise x stays pure noise, or ends in x0
        kept = scale(there.ratio) / scale(here.ratio) if leaves else 1.0
        down, fresh = split(there, min(kept, 1.0))
        x = toward(x, clean, here, down)
        slope = _difference(here.ratio, clean, history, order)
        if slope is not None and there.sigma > 0:
            first, second = coefficients(scale, here.ratio, there.ratio)
            x = x + there.alpha * first * slope
            bend = _bend(here.ratio, slope, history, order)
            if bend is not None:
                x = x + there.alpha * second * bend
        if fresh > 0:
            x = x + s_noise * fresh * noise.normal(x, index)
        if here.alpha > 0:
            history = [*history[-1:], (here.ratio, clean, slope)]
        yield Step(index, there.t, x, clean)


def coefficients(scale: Scale, here: float, there: float, points: int = 32) -> tuple[float, float]:
    """c_1 and c_2 between two ratios, here > there > 0, by Gauss-Legendre quadrature in log r."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    half = math.log(here / there) / 2
    ratios = there * np.exp(half * (nodes + 1))
    density = there * scale(there) * half * weights / np.array([scale(ratio) for ratio in ratios.tolist()])
    step = there - here
    return step + float(density.sum()), step**2 / 2 + float((density * (ratios - here)).sum())


def _difference(
    ratio: float, clean: Tensor, history: list[tuple[float, Tensor, Tensor | None]], order: int
) -> Tensor | None:
    if order < 2 or not history or history[-1][0] == ratio:
        return None
    return (clean - history[-1][1]) / (ratio - history[-1][0])


def _bend(ratio: float, slope: Tensor, history: list[tuple[float, Tensor, Tensor | None]], order: int) -> Tensor | None:
    """The second derivative, from two slopes, each at the middle of its interval."""
    last_slope = history[-1][2]
    if order < 3 or last_slope is None:
        return None
    return (slope - last_slope) * 2 / (ratio - history[0][0])
