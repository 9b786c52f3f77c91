"""Inpainting: regenerate the masked part and keep the rest (mask 1 is regenerated, mask 0 is kept).

Keeping is a denoiser that knows the answer there: ``x0 = mask estimate + (1 - mask) known``. Under any sampler the kept
part of x_t is then the known image noised to level t, and at the end it is the known image exactly.

RePaint (2201.09865) also goes back: after every ``jump`` steps it returns to the noisier level and walks down again, so
that what is made can settle with what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, DenoiserLike
from core.edit.image import noise_to_level
from core.grid import Grid
from core.random import SamplingRNG
from core.sample.step import Level, NoiseSource, Sampler, Step, levels
from core.schedule import Schedule


@dataclass(frozen=True)
class Inpainted:
    """A denoiser that knows x0 where ``mask`` is 0. Any guidance may lie within; samplers need no change."""

    denoiser: DenoiserLike
    known: Tensor  # (B, ...)
    mask: Tensor  # broadcasts to known, in [0, 1]

    def __post_init__(self) -> None:
        check_mask(self.known, self.mask)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        return self.denoiser.bind(cond).map_x0(self.blended)

    def blended(self, clean: Tensor) -> Tensor:
        """An estimate of x0 (B, ...) where the image is regenerated, the image elsewhere."""
        known, mask = self.known.to(clean), self.mask.to(clean)
        return torch.where(mask == 0, known, known + mask * (clean - known))


def inpaint(
    denoiser: DenoiserLike,
    cond: Cond,
    known: Tensor,
    mask: Tensor,
    noise: SamplingRNG,
    *,
    sampler: Sampler,
    grid: Grid,
    steps: int,
) -> Iterator[Step]:
    """Sample with the known part of (B, ...) kept; a mask of ones everywhere is plain sampling."""
    times = grid(denoiser.schedule, steps)
    alpha, sigma = (float(value) for value in denoiser.schedule(times[0]))
    fresh = (sigma * noise.start(known.shape[1:])).to(known)
    blended = noise_to_level(known, denoiser.schedule, times[0], noise)
    x = torch.where(mask.to(known) == 0, blended, fresh) if alpha else fresh
    yield from sampler(Inpainted(denoiser, known, mask).bind(cond), x, times, noise)


def check_mask(known: Tensor, mask: Tensor) -> None:
    """Raises ValueError for a mask of another size, or outside [0, 1]."""
    sizes = (tuple(mask.shape[2:]), tuple(known.shape[2:]))
    if mask.ndim != known.ndim or sizes[0] != sizes[1]:
        raise ValueError(f"the mask has size {sizes[0]}, the image {sizes[1]}: give a mask of the image's size")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("a mask must lie between 0 (keep) and 1 (regenerate)")


def repaint(sampler: Sampler, jump: int = 1, resamples: int = 10) -> Sampler:
    """A sampler that walks every ``jump`` steps ``resamples`` times, adding noise to x in between (2201.09865, alg.
    1)."""
    if jump < 1 or resamples < 1:
        raise ValueError("RePaint needs jumps and resamples of at least 1")

    def walk(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
        path = levels(denoise.schedule, times)
        for first in range(0, len(path) - 1, jump):
            last = min(first + jump, len(path) - 1)
            for again in range(resamples):
                step = None
                for step in sampler(denoise, x, times[first : last + 1], noise):
                    yield Step(first + step.index, step.t, step.x, step.clean)
                assert step is not None
                x = step.x
                # Never after the last step: there is nothing left to settle.
                if last == len(path) - 1:
                    break
                if again < resamples - 1:
                    x = renoise(x, path[last], path[first], noise.normal(x, first, part=again + 1))

    return walk


def renoise(x: Tensor, here: Level, there: Level, fresh: Tensor) -> Tensor:
    """From a level to a noisier one, forward in the process that the schedule describes."""
    if here.alpha == 0:
        return there.sigma * fresh
    carry = there.alpha / here.alpha
    return carry * x + math.sqrt(max(there.sigma**2 - (carry * here.sigma) ** 2, 0.0)) * fresh


def masked_condition(latents: Tensor, mask: Tensor) -> Cond:
    """The condition of the 9-channel inpainting U-Net: the mask (B, 1, *grid) of the data, shrunk to the grid of the
    masked image's latents (B, C, *code), before these; mask 1 is regenerated.
    """
    small = F.interpolate(mask.to(latents), size=latents.shape[2:], mode="nearest")
    return Cond(concat=torch.cat([small.expand(len(latents), -1, *small.shape[2:]), latents], dim=1))
