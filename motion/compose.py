"""Long sequences and composed bodies: overlapping segments and body parts with prompts of their own.

Features are relative to the body's heading and position, so segments need to agree on a pose, not on a position:
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
from core.sample.step import noise_at, run
from core.schedule import Schedule
from core.systems.diffusion import Diffusion
from core.systems.sampling import Sampling
from motion.editing import joint_features
from motion.skeleton import HUMAN, Skeleton


@dataclass(frozen=True)
class Segment:
    """A caption for so many frames, the overlaps with its neighbours included."""

    caption: str
    frames: int


def segments(plan: Sequence[Segment], overlap: int) -> list[tuple[int, Tensor]]:
    """Where each segment starts, and its weights (frames,), which add up to 1 in every frame.

    Raises ValueError where there is no segment, or one is too short for its overlaps.
    """
    if not plan:
        raise ValueError("a sequence needs at least one segment: give a caption and a number of frames")
    found, start = [], 0
    for number, segment in enumerate(plan):
        rise, fall = overlap if number else 0, overlap if number < len(plan) - 1 else 0
        found.append((start, ramp(segment.frames, rise, fall)))
        start += segment.frames - overlap
    return found


def sequence(
    system: Diffusion,
    plan: Sequence[Segment],
    overlap: int,
    noise: SamplingRNG,
    sampling: Sampling,
    skeleton: Skeleton = HUMAN,
    correction: float = 0.0,
) -> Tensor:
    """Clips (B, T, D), normalised, in which one segment follows the other; T is their sum without the overlaps.

    correction: how hard the overlaps are pulled to where both segments agree, the paper's lambda_2.
    """
    spans = segments(plan, overlap)
    count = len(noise.samples)
    parts = [
        Part(_conditions(system, segment.caption, count, segment.frames), weight[None, :, None], start)
        for segment, (start, weight) in zip(plan, spans)
    ]
    return _sampled(system, parts, (spans[-1][0] + plan[-1].frames, skeleton.features), noise, sampling, correction)


def compose_limbs(
    system: Diffusion,
    plan: Sequence[tuple[str, Sequence[int]]],
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
        Part(_conditions(system, caption, count, frames), joint_features(joints, skeleton).expand(1, frames, -1))
        for caption, joints in plan
    ]
    return _sampled(system, parts, (frames, skeleton.features), noise, sampling, correction)


def _conditions(system: Diffusion, caption: str, count: int, frames: int) -> Cond:
    batch = {"caption": [caption] * count, "valid": torch.ones(count, frames, dtype=torch.bool)}
    return system.conditioner(batch).to(system.like.device)


@dataclass(frozen=True)
class _Whole:
    """A denoiser that is already conditioned."""

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
    x = noise_at(denoiser.schedule, times[:1], noise, shape).to(system.like)
    return run(sampling.sampler(denoiser, x, times, noise))
