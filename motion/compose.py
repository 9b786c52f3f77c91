"""Long sequences and bodies of several prompts: segments that overlap, limbs that are told different things.

Features tell of a body as it faces and moves, wherever it is. So segments need not agree on a place, only on a pose:
where two overlap, their estimates of x0 are blended at every step of the sampler (2303.01418, section 4.1), and both
become one motion. Limbs are blended alike, over features in place of frames (2208.15001, section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound
from core.edit.parts import Part, in_parts, ramp
from core.random import SamplingRNG
from core.recipe import Sampling
from core.sample.step import run
from core.schedule import Schedule
from core.systems.diffusion import Diffusion
from motion.editing import features_of
from motion.skeleton import HUMAN, Skeleton


@dataclass(frozen=True)
class Segment:
    """What is done for so many frames, the overlaps with its neighbours included."""

    caption: str
    frames: int


def segments(told: Sequence[Segment], overlap: int) -> list[tuple[int, Tensor]]:
    """Where each segment starts, and its weights (frames,), which add up to 1 in every frame.

    Raises ValueError where there is no segment, or one is too short for its overlaps.
    """
    if not told:
        raise ValueError("a sequence needs at least one segment: say what is done, and for how many frames")
    found, start = [], 0
    for number, segment in enumerate(told):
        rise, fall = overlap if number else 0, overlap if number < len(told) - 1 else 0
        found.append((start, ramp(segment.frames, rise, fall)))
        start += segment.frames - overlap
    return found


def sequence(
    system: Diffusion,
    told: Sequence[Segment],
    overlap: int,
    noise: SamplingRNG,
    sampling: Sampling,
    skeleton: Skeleton = HUMAN,
    correction: float = 0.0,
) -> Tensor:
    """Clips (B, T, D), normalised, in which one segment follows the other; T is their sum without the overlaps.

    correction: how hard the overlaps are pulled to where both segments agree, the paper's lambda_2.
    """
    spans = segments(told, overlap)
    count = len(noise.samples)
    parts = [
        Part(_told(system, segment.caption, count, segment.frames), weight[None, :, None], start)
        for segment, (start, weight) in zip(told, spans)
    ]
    return _sampled(system, parts, (spans[-1][0] + told[-1].frames, skeleton.features), noise, sampling, correction)


def limbs_told(
    system: Diffusion,
    told: Sequence[tuple[str, Sequence[int]]],
    frames: int,
    noise: SamplingRNG,
    sampling: Sampling,
    skeleton: Skeleton = HUMAN,
    correction: float = 0.0,
) -> Tensor:
    """Clips (B, frames, D), normalised, in which each caption moves its own joints; together they are all joints.

    correction: how hard the body is pulled to where the captions agree, the paper's lambda_1.
    """
    count = len(noise.samples)
    parts = [
        Part(_told(system, caption, count, frames), features_of(joints, skeleton).expand(1, frames, -1))
        for caption, joints in told
    ]
    return _sampled(system, parts, (frames, skeleton.features), noise, sampling, correction)


def _told(system: Diffusion, caption: str, count: int, frames: int) -> Cond:
    batch = {"caption": [caption] * count, "valid": torch.ones(count, frames, dtype=torch.bool)}
    return system.conditioner(batch).to(system.like.device)


@dataclass(frozen=True)
class _Whole:
    """A denoiser that was told everything before."""

    bound: Bound

    @property
    def schedule(self) -> Schedule:
        return self.bound.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        return self.bound


@torch.no_grad()
def _sampled(
    system: Diffusion,
    parts: Sequence[Part],
    shape: tuple[int, int],
    noise: SamplingRNG,
    sampling: Sampling,
    correction: float,
) -> Tensor:
    guided = system.guided(sampling.guidance, sampling.guide)
    # A guidance by 1 is what it does besides: feet that were planted in every part are planted in the whole.
    whole = sampling.guide(_Whole(in_parts(guided, parts, correction)), system.conditioner.null(1), 1.0)
    denoiser = whole.bind(Cond())
    times = sampling.grid(denoiser.schedule, sampling.steps)
    sigma = denoiser.schedule(times[:1])[1]
    x = (noise.start(shape) * sigma).to(system.like)
    return run(sampling.sampler(denoiser, x, times, noise))
