"""Samplers of score-based SDEs (2011.13456): reverse diffusion, Euler-Maruyama and the Langevin corrector.

The score at x is ``s = (alpha x0 - x) / sigma^2``. With the forward kernel ``q(x_here | x_there) = N(a x_there, b^2)``
the reverse-diffusion predictor is (equation 46, on any path; a = 1 is VE and a^2 + b^2 = 1 is VP)

    x_there = (2 - a) x + b^2 s + b z,

and the corrector takes Langevin steps ``x + e s + sqrt(2 e) z`` with ``e = 2 a^2 (snr |z| / |s|)^2`` (algorithms 4, 5).
A step to clean data ends in x0; a step from alpha = 0, where the SDE is singular, renoises x0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from core.denoiser import Bound
from core.sample.renoise import diffuse
from core.sample.step import Level, NoiseSource, Step, levels


def each(x: Tensor) -> Tensor:
    """The norm of every sample by itself: x (B, ...) -> (B,). Samples do not interact."""
    return x.flatten(1).norm(dim=1)


def batch_mean(x: Tensor) -> Tensor:
    """The mean norm of the batch: x (B, ...) -> (B,). As published; it makes a sample depend on its neighbours."""
    return each(x).mean().expand(x.shape[0])


def predictor_corrector(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    *,
    corrections: int = 1,
    snr: float = 0.16,
    norm: Callable[[Tensor], Tensor] = each,
) -> Iterator[Step]:
    """Correct at a level, then predict the next. ``corrections + 1`` evaluations a step.

    ``snr`` is the corrector's signal-to-noise ratio; its step is normalised by the sample's own
    norms, whose bias, large in few dimensions, does not vanish with the number of steps.
    """
    path = levels(denoise.schedule, times)
    for index, (here, there) in enumerate(zip(path, path[1:])):
        for part in range(1, corrections + 1):
            score = _score(denoise(x, here.t), x, here)
            unit = noise.normal(x, index, part)
            carry = here.alpha / there.alpha if here.alpha > 0 else 0.0
            x = _langevin(x, score, unit, 2 * (carry * snr) ** 2, norm)
        clean = denoise(x, here.t)
        x = _reverse_diffusion(x, clean, here, there, noise, index)
        yield Step(index, there.t, x, clean)


def reverse_diffusion(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """The predictor alone. One evaluation a step."""
    return predictor_corrector(denoise, x, times, noise, corrections=0)


def euler_maruyama(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """Euler-Maruyama for the reverse SDE ``dx = (f x - g^2 s) dt + g dw`` (equation 6). One evaluation a step.

    ``f dt = d alpha / alpha`` and ``g^2 dt = 2 sigma (d sigma - sigma f dt)`` are taken as differences over the step,
    which no choice of time changes. Close to pure noise they grow without bound and call for small steps; there
    ``reverse_diffusion`` is the safer one.
    """
    path = levels(denoise.schedule, times)
    for index, (here, there) in enumerate(zip(path, path[1:])):
        clean = denoise(x, here.t)
        if there.sigma == 0 or here.alpha == 0:
            x = _ends(clean, there, noise, index)
        else:
            drift = (here.alpha - there.alpha) / here.alpha
            power = max(0.0, 2 * here.sigma * (here.sigma - there.sigma - here.sigma * drift))
            x = (1 - drift) * x + power * _score(clean, x, here) + math.sqrt(power) * noise.normal(x, index)
        yield Step(index, there.t, x, clean)


def _score(clean: Tensor, x: Tensor, here: Level) -> Tensor:
    return (here.alpha * clean - x) / here.sigma**2


def _ends(clean: Tensor, there: Level, noise: NoiseSource, index: int) -> Tensor:
    """x0 itself at clean data; x0 and fresh noise from pure noise, where the SDE's coefficients are infinite."""
    return there.alpha * clean + there.sigma * noise.normal(clean, index) if there.sigma > 0 else there.alpha * clean


def _langevin(x: Tensor, score: Tensor, unit: Tensor, scale: float, norm: Callable[[Tensor], Tensor]) -> Tensor:
    """One Langevin step of size ``scale (|unit| / |score|)^2``, none where the score vanishes."""
    length = norm(score)
    size = torch.where(length > 0, scale * (norm(unit) / length) ** 2, 0.0).view(-1, *[1] * (x.ndim - 1))
    return x + size * score + (2 * size).sqrt() * unit


def _reverse_diffusion(x: Tensor, clean: Tensor, here: Level, there: Level, noise: NoiseSource, index: int) -> Tensor:
    if there.sigma == 0 or here.alpha == 0:
        return _ends(clean, there, noise, index)
    carry, spread = diffuse(there, here)
    return (2 - carry) * x + spread**2 * _score(clean, x, here) + spread * noise.normal(x, index)
