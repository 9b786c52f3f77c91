"""Editing clips with ``core.edit``: what is kept and what is made anew, in frames and in limbs.

A mask is 1 where features are made and 0 where they are kept. Features tell of a body as it faces, not of where it is:
what follows a gap is kept as poses, and the way of the root through the gap decides where they are. So that they are
also where they were, ``Closing`` mends each estimate of x0: the turns and velocities in the gap get what is missing,

    turn_s += w_s (what the heading lacks),    velocity_s += w_s (what the root lacks),    sum_s w_s = 1

with w a raised cosine, so that nothing jumps at the seams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.edit import inpaint
from core.guidance import Thresholded
from core.random import Noise
from core.recipe import Sampling
from core.sample.step import run
from core.system import Diffusion
from motion.features import Groups, Normal, decode_root
from motion.rotation import rotate
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


@torch.no_grad()
def edited(
    system: Diffusion,
    caption: str | Sequence[str],
    known: Tensor,
    mask: Tensor,
    noise: Noise,
    sampling: Sampling,
    closing: Closing | None = None,
) -> Tensor:
    """Clips known (B, T, D), normalised, made anew where the mask (1, T, D) is 1, as the caption or their own say."""
    denoiser = system.guided(sampling.guidance, sampling.guide)
    valid = torch.ones(known.shape[:2], dtype=torch.bool)
    captions = [caption] * len(known) if isinstance(caption, str) else list(caption)
    cond = system.conditioner({"caption": captions, "valid": valid}).to(system.like.device)
    if closing is not None:
        denoiser = Thresholded(denoiser, closing)
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
