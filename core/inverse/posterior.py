"""Inverse problems: samples of p(x0 | y) for a measurement y = A x0 + noise, with any denoiser and under any sampler.

    E[x0 | x_t, y] = x0 + C A^T (A C A^T + s^2 I)^-1 (y - A x0)        x0 = E[x0 | x_t],  C = Cov[x0 | x_t]

is exact where x0 given x_t is normal. By Tweedie's formula ``C = sigma^2 / alpha  d x0 / d x_t``, so C v is one
derivative of the denoiser. Methods differ in what they put for C inside the inverse: a variance that is a guess, as in
PiGDM (Song et al. 2023), or C itself, by conjugate gradients (2405.13712); DPS (2209.14687) leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, DenoiserLike, Estimate
from core.inverse.operator import Operator
from core.schedule import Schedule

Variance = Callable[[float], float]  # sigma / alpha -> the variance of x0 given x_t


def scalar_variance(data: float = 1.0) -> Variance:
    """PiGDM's r^2 for data of this variance: ``r^2 d / (r^2 + d)`` with r the ratio sigma / alpha."""
    return lambda ratio: data if math.isinf(ratio) else ratio**2 * data / (ratio**2 + data)


@dataclass(frozen=True)
class MeasurementPosterior:
    """A denoiser that has seen y.

    deviation: of the measurement's noise, s; variance: PiGDM's guess, or None for the model's own covariance;
    iterations: of the conjugate gradients, each of which costs a derivative of the model where ``variance`` is None.
    """

    denoiser: DenoiserLike
    operator: Operator
    measured: Tensor
    deviation: float = 0.0
    variance: Variance | None = None
    iterations: int = 10

    def __post_init__(self) -> None:
        check_measurement(self.measured, self.deviation)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        bound = self.denoiser.bind(cond)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            clean, mix, spread = tweedie(bound, x, t)
            if spread is None:
                return Estimate(clean, mix)
            residual = self.measured.to(clean) - self.operator.apply(clean)

            def covariance(y: Tensor) -> Tensor:
                back = self.operator.adjoint(y)
                if self.variance is None:
                    return self.operator.apply(spread(back)) + self.deviation**2 * y
                guess = self.variance(ratio_at(bound.schedule, t))
                return guess * self.operator.apply(back) + self.deviation**2 * y

            weights = conjugate_gradients(covariance, residual, self.iterations)
            return Estimate(clean + spread(self.operator.adjoint(weights)), mix)

        return Bound(bound.schedule, estimate)


@dataclass(frozen=True)
class DPS:
    """Diffusion posterior sampling: the likelihood of y at x0 itself, ``x0 + step C A^T (y - A x0) / |y - A x0|``.

    It knows nothing of how uncertain x0 is, so it is biased: on normal data its samples are off the posterior's mean.
    step: the paper's zeta, here in the units of the data.
    """

    denoiser: DenoiserLike
    operator: Operator
    measured: Tensor
    step: float = 1.0

    def __post_init__(self) -> None:
        check_measurement(self.measured, 0.0)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        bound = self.denoiser.bind(cond)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            clean, mix, spread = tweedie(bound, x, t)
            if spread is None:
                return Estimate(clean, mix)
            residual = self.measured.to(clean) - self.operator.apply(clean)
            size = residual.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (residual.ndim - 1))
            return Estimate(clean + self.step * spread(self.operator.adjoint(residual / size)), mix)

        return Bound(bound.schedule, estimate)


def tweedie(bound: Bound, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None, Callable[[Tensor], Tensor] | None]:
    """x0, the variance mix, and v -> Cov[x0 | x_t] v; None for the last at pure noise, which tells nothing of x0."""
    ratio = ratio_at(bound.schedule, t)
    if math.isinf(ratio) or ratio == 0:
        clean, mix = bound.estimate(x, t)
        return clean, mix, None
    alpha, sigma = (float(value) for value in bound.schedule(t))
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        clean, mix = bound.estimate(leaf, t)

    def spread(v: Tensor) -> Tensor:
        with torch.enable_grad():
            (found,) = torch.autograd.grad(clean, leaf, v, retain_graph=True)
        return found * (sigma**2 / alpha)

    return clean.detach(), mix, spread


def ratio_at(schedule: Schedule, t: Tensor) -> float:
    """sigma / alpha at t (). Raises ValueError for a time of each sample's own."""
    if t.ndim:
        raise ValueError("inverse problems are sampled with one time for the whole batch")
    alpha, sigma = (float(value) for value in schedule(t))
    return math.inf if alpha == 0 else sigma / alpha


def conjugate_gradients(apply: Callable[[Tensor], Tensor], wanted: Tensor, iterations: int) -> Tensor:
    """Solve A v = wanted for a symmetric, positive A, each sample by itself; least squares where A is singular.

    A network's covariance is neither quite symmetric nor quite positive, and steps can lead away: of all v on the way
    the one that leaves the smallest rest is returned.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.ndim - 1))

    solution, rest = torch.zeros_like(wanted), wanted
    direction, size = rest, dot(rest, rest)
    enough, tiny = 1e-14 * size, torch.finfo(wanted.dtype).tiny
    best, least = solution, size
    for _ in range(iterations):
        moved = apply(direction)
        along = dot(direction, moved)
        active = (size > enough) & (along > tiny)
        step = torch.where(active, size / along.clamp(min=tiny), torch.zeros_like(size))
        solution, rest = solution + step * direction, rest - step * moved
        before, size = size, dot(rest, rest)
        best, least = torch.where(size < least, solution, best), torch.minimum(size, least)
        direction = rest + torch.where(active, size / before.clamp(min=tiny), torch.zeros_like(size)) * direction
    return best


def check_measurement(measured: Tensor, deviation: float) -> None:
    """Raises ValueError for a measurement that is not finite, or noise without a size."""
    if not bool(measured.isfinite().all()):
        raise ValueError("the measurement contains NaN or infinity: clean it first")
    if not (deviation >= 0 and math.isfinite(deviation)):
        raise ValueError(f"the deviation of the measurement's noise must be finite and not negative, not {deviation}")
