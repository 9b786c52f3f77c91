"""Foot-skate cleanup by two-bone inverse kinematics on x0; the rest of the body is unchanged.

A clip's contacts mark when a toe rests. As long as it does it is *planted*: moved to its mean position. Between two
plants what was moved fades from one to the other, and a toe that travels there is lifted off the ground. Each leg is
solved again: the foot keeps its slope, the knee its side, and the bones their length (footskate cleanup as of Kovar,
Schreiner and Gleicher 2002, with two bones in closed form). A leg that does not reach is stretched out.

It applies to estimates of x0 as guidance does, under any sampler, and only at low noise: earlier ones are
means over many motions, whose feet neither rest nor step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, DenoiserLike
from core.guidance import GuidanceInterval, Guided
from core.schedule import Schedule
from core.systems.diffusion import Guide
from motion.features import Groups, Normal, decode, decode_root, limbs
from motion.feet import Feet
from motion.physics import NEAR
from motion.skeleton import HUMAN, Skeleton

STRAIGHT = 0.999  # of a leg's length, the farthest that it reaches


@dataclass(frozen=True)
class FootSkateCleanup:
    """A denoiser whose x0 (B, T, D), normalised, has its foot skate removed in the frames that exist."""

    denoiser: DenoiserLike
    normal: Callable[[], Normal]
    skeleton: Skeleton = HUMAN
    feet: Feet = Feet()

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        def clean_up(clean: Tensor) -> Tensor:
            exists = torch.ones_like(clean[..., 0], dtype=torch.bool) if cond.valid is None else cond.valid
            normal = self.normal()
            return normal.apply(clean_foot_skate(normal.undo(clean), exists, self.skeleton, self.feet))

        return self.denoiser.bind(cond).map_x0(clean_up)


def clean_foot_skate(features: Tensor, exists: Tensor, skeleton: Skeleton = HUMAN, feet: Feet = Feet()) -> Tensor:
    """Features (B, T, D) whose legs are bent so that resting toes stay, of the frames that exist (B, T)."""
    _, _, _, positions, rotations, velocities, contacts = Groups(skeleton.joints).slices()
    joints = decode(features, skeleton)
    resting = (features[..., contacts][..., 1::2] > 0.5) & exists[..., None]  # (B, T, 2): row t is of the step to t + 1
    legs = [_leg(toe, skeleton) for toe in skeleton.feet[1::2]]
    bent = joints.clone()
    for side, leg in enumerate(legs):
        toe = joints[:, :, leg[-1]]
        _bend(bent, leg, corrected_toe(toe, resting[..., side], exists, skeleton, feet) - toe)
    undo, _ = decode_root(features)
    found = features.clone()
    parts = zip((positions, rotations, velocities), limbs(bent, undo, skeleton), (1, 1, 0), strict=True)
    for part, values, first in parts:  # the root has a velocity, and neither position nor rotation
        target = found[:, : values.shape[1], part].unflatten(-1, values.shape[2:])
        for leg in legs:
            moved = [joint - first for joint in leg[1:]]
            target[:, :, moved] = values[:, :, moved]
    return found


def corrected_toe(
    toe: Tensor, rests: Tensor, exists: Tensor, skeleton: Skeleton = HUMAN, feet: Feet = Feet()
) -> Tensor:
    """Where a toe (B, T, 3) goes whose contact until the next frame is (B, T): planted, or lifted.

    Frames that do not exist (B, T) change no other.
    """
    ground = toe[..., [0, 2]]
    slow = ground.diff(dim=1).norm(dim=-1) < feet.still(skeleton)
    low = toe[..., 1] < feet.low
    stays = rests[:, :-1] & slow & low[:, 1:] & low[:, :-1]  # (B, T - 1): from a frame to the next
    after, before = F.pad(stays, (0, 1)), F.pad(stays, (1, 0))  # (B, T)
    begins = after & ~before
    # From one plant right into another a foot would jump along the ground, so it steps: a frame between is free.
    planted = (after | before) & ~(begins & F.pad(before, (1, 0))[:, :-1])
    plants = begins.cumsum(1)  # of the plant that a frame belongs to, if it is planted
    member = F.one_hot(plants.where(planted, 0), int(plants.max()) + 1).to(toe) * planted[..., None]  # (B, T, n)
    middles = member.transpose(1, 2) @ ground / member.sum(1).clamp_min(1)[..., None]  # (B, n, 2)
    shift = interpolated_shift((member @ middles - ground) * planted[..., None], planted)
    ground = ground + shift
    fast = (ground.diff(dim=1).norm(dim=-1) > feet.slide / skeleton.fps) & exists[:, 1:] & exists[:, :-1]
    travels = (F.pad(fast, (0, 1)) | F.pad(fast, (1, 0))) & ~planted
    lift = (1.1 * NEAR - toe[..., 1]).clamp_min(0) * travels
    return torch.stack([ground[..., 0], toe[..., 1] + raised_cosine_lift(lift), ground[..., 1]], dim=-1)


def raised_cosine_lift(lift: Tensor, reach: int = 3) -> Tensor:
    """A lift (B, T), nowhere less, that rises and falls over ``reach`` frames along a raised cosine."""
    away = torch.arange(-reach, reach + 1, dtype=lift.dtype, device=lift.device)
    fades = (1 + torch.cos(torch.pi * away / (reach + 1))) / 2  # 1 in the middle
    return (F.pad(lift, (reach, reach)).unfold(-1, 2 * reach + 1, 1) * fades).amax(-1)


def interpolated_shift(shift: Tensor, known: Tensor) -> Tensor:
    """A shift (B, T, 2) at known frames (B, T), interpolated smoothly, constant at the ends.

    Where no frame is known there is none.
    """
    count = known.shape[1]
    place = torch.arange(count, device=known.device).expand(known.shape)
    last = place.where(known, -1).cummax(1).values
    following = place.where(known, count).flip(1).cummin(1).values.flip(1)
    share = ((place - last) / (following - last).clamp_min(1)).to(shift)
    share = torch.where(last < 0, 1, torch.where(following == count, 0, share * share * (3 - 2 * share)))[..., None]
    ends = [end.clamp(0, count - 1)[..., None].expand(shift.shape) for end in (last, following)]
    return shift.gather(1, ends[0]) * (1 - share) + shift.gather(1, ends[1]) * share


def _bend(joints: Tensor, leg: list[int], shift: Tensor) -> None:
    """Move a leg's ankle and what hangs on it (B, T, J, 3) by a shift (B, T, 3), as far as it reaches; in place."""
    hip, knee, ankle = (joints[:, :, joint] for joint in leg[:3])
    thigh, shin = (knee - hip).norm(dim=-1, keepdim=True), (ankle - knee).norm(dim=-1, keepdim=True)
    to_ankle = ankle + shift - hip
    length = to_ankle.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    far = torch.minimum(torch.maximum(length, (thigh - shin).abs()), STRAIGHT * (thigh + shin))
    along = to_ankle / length
    out = knee - hip
    out = F.normalize(out - (out * along).sum(-1, keepdim=True) * along, dim=-1)
    share = (thigh**2 - shin**2 + far**2) / (2 * far)  # of the distance, where the knee's height meets it
    height = (thigh**2 - share**2).clamp_min(0).sqrt()
    joints[:, :, leg[3:]] += (hip + far * along - ankle)[:, :, None]
    joints[:, :, leg[1]], joints[:, :, leg[2]] = hip + share * along + height * out, hip + far * along


def _leg(toe: int, skeleton: Skeleton) -> list[int]:
    """Hip, knee, ankle and what follows to the toe."""
    chain = [toe]
    while skeleton.parents[chain[0]] != 0:
        chain.insert(0, skeleton.parents[chain[0]])
    return chain


def foot_skate_cleanup(
    normal: Callable[[], Normal], below: float = 0.5, within: Guide = Guided, feet: Feet = Feet()
) -> Guide:
    """A guidance with foot-skate cleanup where noise is less than ``below`` times the signal."""

    def guide(denoiser: DenoiserLike, null: Cond, scale: float) -> DenoiserLike:
        guided = within(denoiser, null, scale)
        return GuidanceInterval(FootSkateCleanup(guided, normal, feet=feet), guided, high=below)

    return guide
