"""Editing clips with ``core.edit``: what is kept and what is made anew, in frames and in limbs.

A mask is 1 where features are made and 0 where they are kept. Features tell of a body as it faces, not of where it is:
what follows a gap is kept as poses, and the way of the root through the gap decides where they are. So that they are
also where they were, ``Closing`` mends each estimate of x0: the turns and velocities in the gap get what is missing,

    turn_s += w_s (what the heading lacks),    velocity_s += w_s (what the root lacks),    sum_s w_s = 1

with w a raised cosine, so that nothing jumps at the seams. Poses need not jump either. What is kept says where limbs go
from there, and ``Joined`` leads each estimate of x0 on from it: what it lacks at a seam, in value (d) and in slope (v),
is added and fades over N frames, along the cubic that ends with neither,

    x_s += (2 u^3 - 3 u^2 + 1) d + (u^3 - 2 u^2 + u) N v,    u = s / N <= 1

which animators call inertialization.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.edit import inpaint
from core.guidance import X0Transform
from core.random import SamplingRNG
from core.recipe import Sampling
from core.sample.step import run
from core.systems.diffusion import Diffusion
from motion.features import Groups, Normal, decode_root
from motion.rotation import about_y, rotate
from motion.skeleton import HUMAN, Skeleton

LEGS = ("pelvis", "hip", "knee", "ankle", "foot")  # names of joints that end so are below the belt


def features_of(joints: Sequence[int], skeleton: Skeleton = HUMAN) -> Tensor:
    """Which of a frame's features tell of some joints: (D,) of 0 and 1.

    The root has its turn, velocity and height; contacts belong to the feet. Raises ValueError for a joint there is not.
    """
    if any(not 0 <= joint < skeleton.joints for joint in joints):
        raise ValueError(f"joints are numbers from 0 to {skeleton.joints - 1}, not {list(joints)}")
    chosen = torch.zeros(skeleton.joints)
    chosen[list(joints)] = 1
    root, limbs = chosen[:1], chosen[1:]
    contacts = chosen[list(skeleton.feet)]
    return torch.cat(
        [root.repeat(4), limbs.repeat_interleave(3), limbs.repeat_interleave(6), chosen.repeat_interleave(3), contacts]
    )


def above_the_belt(skeleton: Skeleton = HUMAN) -> tuple[int, ...]:
    """The joints of the upper body: all but the pelvis and the legs."""
    return tuple(joint for joint, name in enumerate(skeleton.names) if not name.endswith(LEGS))


def gap(frames: int, first: int, last: int, skeleton: Skeleton = HUMAN) -> Tensor:
    """A mask (1, frames, D): frames ``first`` to ``last`` - 1 are made anew, to the end for a continuation.

    Raises ValueError for a gap that is empty or lies outside of the clip.
    """
    if not 0 <= first < last <= frames:
        raise ValueError(f"a gap from frame {first} to {last} is none in a clip of {frames} frames")
    mask = torch.zeros(1, frames, skeleton.features)
    mask[:, first:last] = 1
    return mask


def limbs(frames: int, joints: Sequence[int], skeleton: Skeleton = HUMAN) -> Tensor:
    """A mask (1, frames, D): what tells of these joints is made anew, all the time."""
    return features_of(joints, skeleton).expand(1, frames, -1)


@dataclass(frozen=True)
class Closing:
    """x0 (B, T, D), normalised, with its root brought to where it is known to be after frames ``first`` to ``last``."""

    normal: Normal
    known: Tensor  # (B, T, D), normalised
    first: int
    last: int

    def __post_init__(self) -> None:
        """Raises ValueError where nothing follows the gap, or the gap is empty."""
        if not 0 <= self.first < self.last < self.known.shape[1]:
            raise ValueError("a gap is closed between frames that are kept: let it end before the clip does")

    def __call__(self, clean: Tensor) -> Tensor:
        size = self.last - self.first
        share = 1 - torch.cos(2 * torch.pi * (torch.arange(size, dtype=clean.dtype, device=clean.device) + 0.5) / size)
        share = share / share.sum()
        features, truth = self.normal.undo(clean).clone(), self.normal.undo(self.known.to(clean))
        features[:, : self.first] = truth[:, : self.first]
        turn, velocity, *_ = Groups((features.shape[-1] + 1) // 12).slices()
        made = slice(self.first, self.last)
        lacks = truth[:, : self.last, turn].sum(1) - features[:, : self.last, turn].sum(1)  # (B, 1)
        features[:, made, turn] += share[:, None] * lacks[:, None]
        undo, root = decode_root(features)
        gone = decode_root(truth)[1][:, self.last] - root[:, self.last]  # (B, 3)
        # A velocity is told as the body faces in the frame that it leads to.
        local = rotate(undo[:, self.first + 1 : self.last + 1], gone[:, None].expand(-1, size, -1))
        features[:, made, velocity] += share[:, None] * local[..., [0, 2]]
        return self.normal.apply(features)


@dataclass(frozen=True)
class Joined:
    """x0 (B, T, D), normalised, whose frames ``first`` to ``last`` - 1 go on from what is kept, and lead to it.

    A gap may begin or end with the clip. ``reach`` is the number of frames in which a correction fades. Contacts stay:
    a foot rests or does not.
    """

    normal: Normal
    known: Tensor  # (B, T, D), normalised
    first: int
    last: int
    reach: int = 10

    def __call__(self, clean: Tensor) -> Tensor:
        known, made = self.known.to(clean), clean[:, self.first : self.last]
        mended, size = made, self.last - self.first
        if self.first > 0:
            before = known[:, max(self.first - 2, 0) : self.first]
            there = self.normal.apply(onwards(self.normal.undo(before)))
            mended = mended + _lacks(before[:, -1], there, mended, min(self.reach, size))
        # What leads to the end leaves the first frame where it is.
        reach = min(self.reach, size - (self.first > 0))
        if self.last < clean.shape[1] and reach > 0:
            after = known[:, self.last : self.last + 2]
            mended = mended + _lacks(after[:, 0], 2 * after[:, 0] - after[:, -1], mended.flip(1), reach).flip(1)
        poses = torch.cat([mended[..., :-4], made[..., -4:]], dim=-1)
        return torch.cat([clean[:, : self.first], poses, clean[:, self.last :]], dim=1)


def _lacks(here: Tensor, there: Tensor, made: Tensor, reach: int) -> Tensor:
    """What ``reach`` of the frames (B, N, D) lack to begin there (B, D), as fast as it is from here (B, D) to there."""
    value, slope = there - made[:, 0], there - here
    if made.shape[1] > 1:
        slope = slope - (made[:, 1] - made[:, 0])
    u = (torch.arange(made.shape[1], dtype=made.dtype, device=made.device) / reach).clamp(max=1)[:, None]
    fades, turns = 2 * u**3 - 3 * u**2 + 1, u**3 - 2 * u**2 + u
    return fades * value[:, None] + turns * reach * slope[:, None]


def onwards(features: Tensor) -> Tensor:
    """The frame (..., D) after features (..., T, D): joints where its velocities lead, all else in a straight line."""
    last = features[..., -1, :]
    turn, _, height, positions, _, velocities, _ = Groups((last.shape[-1] + 1) // 12).slices()
    root = F.pad(last[..., height], (1, 1))[..., None, :]  # (..., 1, 3)
    joints = torch.cat([root, last[..., positions].unflatten(-1, (-1, 3))], dim=-2)
    joints = joints + last[..., velocities].unflatten(-1, (-1, 3))
    joints = joints - joints[..., :1, :] * joints.new_tensor([1.0, 0.0, 1.0])
    faced = rotate(about_y(2 * last[..., turn]), joints)
    ahead = 2 * last - features[..., -min(2, features.shape[-2]), :]
    told = [faced[..., 0, 1:2], faced[..., 1:, :].flatten(-2)]
    return torch.cat([ahead[..., : height.start], *told, ahead[..., positions.stop :]], dim=-1)


def bridging(normal: Normal, known: Tensor, first: int, last: int) -> Callable[[Tensor], Tensor]:
    """What mends the estimates of a gap: its poses go on from what is kept, and its root ends where it was."""
    joined = Joined(normal, known, first, last)
    if last == known.shape[1]:
        return joined
    closing = Closing(normal, known, first, last)
    return lambda clean: closing(joined(clean))


@torch.no_grad()
def edited(
    system: Diffusion,
    caption: str | Sequence[str],
    known: Tensor,
    mask: Tensor,
    noise: SamplingRNG,
    sampling: Sampling,
    mend: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Clips known (B, T, D), normalised, made anew where the mask (1, T, D) is 1, as the caption or their own say.

    mend: what every estimate of x0 passes through, such as ``bridging``.
    """
    denoiser = system.guided(sampling.guidance, sampling.guide)
    valid = torch.ones(known.shape[:2], dtype=torch.bool)
    captions = [caption] * len(known) if isinstance(caption, str) else list(caption)
    cond = system.conditioner({"caption": captions, "valid": valid}).to(system.like.device)
    if mend is not None:
        denoiser = X0Transform(denoiser, mend)
    steps = inpaint(
        denoiser,
        cond,
        known.to(system.like),
        mask.to(system.like),
        noise,
        sampler=sampling.sampler,
        grid=sampling.grid,
        steps=sampling.steps,
    )
    return run(steps)
