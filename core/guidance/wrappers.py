"""Guidance that needs one denoiser: thresholds, an interval of noise levels, and the gradient of a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, DenoiserLike, Estimate
from core.guidance.guided import Guided, levels_at
from core.guidance.rules import ZeroStar
from core.schedule import Schedule


@dataclass(frozen=True)
class GuidanceInterval:
    """One denoiser where ``low <= sigma / alpha <= high``, another elsewhere (2404.07724, equation 5).

    With guidance inside and the plain denoiser outside, only the levels that profit from guidance pay for it. The ratio
    is EDM's sigma on any path; pure noise is infinite. Only where a batch mixes levels of both sorts are both asked.
    """

    inside: DenoiserLike
    outside: DenoiserLike
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"an interval of noise levels needs low <= high, not {self.low} and {self.high}")

    @property
    def schedule(self) -> Schedule:
        return self.inside.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        inside, outside = self.inside.bind(cond), self.outside.bind(cond)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            alpha, sigma = levels_at(self.schedule, t, x)
            within = (sigma >= self.low * alpha) & ((sigma <= self.high * alpha) | math.isinf(self.high))
            if bool(within.all()):
                return inside.estimate(x, t)
            if not bool(within.any()):
                return outside.estimate(x, t)
            (clean, mix), (other, other_mix) = inside.estimate(x, t), outside.estimate(x, t)
            if mix is not None and other_mix is not None:
                mix = torch.where(within, mix, other_mix)
            return Estimate(torch.where(within, clean, other), mix)

        return Bound(self.schedule, estimate)


@dataclass(frozen=True)
class ZeroVelocity:
    """Zero velocity, no network call: ``x0 = x_t / (alpha + sigma)``."""

    schedule: Schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        def estimate(x: Tensor, t: Tensor) -> Estimate:
            alpha, sigma = levels_at(self.schedule, t, x)
            return Estimate(x / (alpha + sigma))

        return Bound(self.schedule, estimate)


def zero_star(denoiser: DenoiserLike, null: Cond, scale: float, zero_above: float = 24.0) -> GuidanceInterval:
    """CFG-Zero* whole (2503.18886): no motion above a noise ratio, ``ZeroStar`` guidance below.

    The paper stands still for the first 4 % of a flow's time: down to sigma / alpha = 0.96 / 0.04.
    """
    return GuidanceInterval(Guided(denoiser, null, scale, ZeroStar()), ZeroVelocity(denoiser.schedule), high=zero_above)


@dataclass(frozen=True)
class X0Transform:
    """A denoiser whose x0 passes through a threshold."""

    denoiser: DenoiserLike
    transform: Callable[[Tensor], Tensor]

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        return self.denoiser.bind(cond).map_x0(self.transform)


@dataclass(frozen=True)
class StaticThreshold:
    """Clip to [-limit, limit]."""

    limit: float = 1.0

    def __call__(self, clean: Tensor) -> Tensor:
        return clean.clamp(-self.limit, self.limit)


@dataclass(frozen=True)
class DynamicThreshold:
    """Imagen's dynamic threshold (2205.11487, section 2.3): clip at a quantile of |x0| and divide by it.

    The quantile is of each sample over all its numbers, interpolated linearly; below ``limit`` it is the limit, above
    ``maximum`` the maximum.
    """

    quantile: float = 0.995
    limit: float = 1.0
    maximum: float = math.inf

    def __post_init__(self) -> None:
        if not (0 <= self.quantile <= 1 and 0 < self.limit <= self.maximum):
            raise ValueError("a dynamic threshold needs a quantile in [0, 1] and 0 < limit <= maximum")

    def __call__(self, clean: Tensor) -> Tensor:
        sizes = clean.flatten(1).abs().to(torch.promote_types(clean.dtype, torch.float32))  # (B, N)
        # By order statistics, because torch.quantile refuses samples as large as a video.
        place = self.quantile * (sizes.shape[1] - 1)
        below = sizes.kthvalue(math.floor(place) + 1, dim=1).values
        above = sizes.kthvalue(math.ceil(place) + 1, dim=1).values
        bound = torch.lerp(below, above, place - math.floor(place)).clamp(self.limit, self.maximum)
        bound = bound.view(-1, *[1] * (clean.ndim - 1))  # (B, 1, ...)
        return (clean.clamp(-bound, bound) * (self.limit / bound)).to(clean.dtype)


@dataclass(frozen=True)
class ClassifierGuided:
    """Classifier guidance (2105.05233, equation 14): add ``scale grad log p(y | x_t)`` to the score.

    In x0 that is ``sigma^2 / alpha`` times the gradient. ``log_prob(x_t, t, cond)`` gives log p(y | x_t) of the wanted
    y for each sample, (B,); the denoiser itself may be conditional or not.
    """

    denoiser: DenoiserLike
    log_prob: Callable[[Tensor, Tensor, Cond], Tensor]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"the guidance scale must be a finite number, not {self.scale}")

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        bound = self.denoiser.bind(cond)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            alpha, sigma = levels_at(self.schedule, t, x)
            if alpha.device.type == "cpu" and bool((alpha == 0).any()):
                raise ValueError("a classifier says nothing about pure noise (alpha = 0): start the grid later")
            with torch.enable_grad():
                leaf = x if x.requires_grad else x.detach().requires_grad_()
                log_prob = self.log_prob(leaf, t, cond).sum()
                # Whoever differentiates the guided denoiser, as a likelihood does, needs the second derivative.
                gradient = torch.autograd.grad(log_prob, leaf, create_graph=x.requires_grad)[0]
            clean, mix = bound.estimate(x, t)
            return Estimate(clean + self.scale * sigma**2 / alpha * gradient, mix)

        return bound if self.scale == 0 else Bound(self.schedule, estimate)
