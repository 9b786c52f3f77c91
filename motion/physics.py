"""Whether motions could be real: feet that slide, jerky joints, bones that stretch, bodies in the ground.

Each figure takes poses (..., T, J, 3) in metres with the ground at 0 and returns one number a clip (...). ``valid``
(..., T) says which poses count; a figure of changes counts a change where all the poses that it needs count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from motion.skeleton import HUMAN, Skeleton

NEAR = 0.05  # metres: a toe below this touches the ground
SLIDE = 0.5  # metres a second: a toe that touches the ground and is faster slides


def skating(joints: Tensor, fps: float, valid: Tensor | None = None, skeleton: Skeleton = HUMAN) -> Tensor:
    """The share of frames in which a toe slides while it touches the ground (2305.12577, foot skating ratio)."""
    toes = joints[..., [skeleton.feet[1], skeleton.feet[3]], :]
    low = toes[..., 1] < NEAR
    speed = toes[..., [0, 2]].diff(dim=-3).norm(dim=-1) * fps
    slides = (low[..., 1:, :] & low[..., :-1, :] & (speed > SLIDE)).any(-1)
    return _mean(slides.to(joints), _changes(joints, valid, 1))


def sliding(joints: Tensor, fps: float, valid: Tensor | None = None, skeleton: Skeleton = HUMAN) -> Tensor:
    """How fast the lower foot moves over the ground, in metres a second, while one of the feet touches it."""
    toes = joints[..., [skeleton.feet[1], skeleton.feet[3]], :]
    speed = toes[..., [0, 2]].diff(dim=-3).norm(dim=-1) * fps  # (..., T - 1, 2)
    height = torch.maximum(toes[..., 1:, :, 1], toes[..., :-1, :, 1])
    lower, which = height.min(-1)
    slowest = speed.gather(-1, which[..., None]).squeeze(-1)
    return _mean(slowest, _changes(joints, valid, 1) & (lower < NEAR))


def jerk(joints: Tensor, fps: float, valid: Tensor | None = None) -> Tensor:
    """The mean size of the third derivative over joints and frames, metres a second cubed."""
    third = joints.diff(n=3, dim=-3).norm(dim=-1).mean(-1) * fps**3
    return _mean(third, _changes(joints, valid, 3))


def acceleration(joints: Tensor, fps: float, valid: Tensor | None = None) -> Tensor:
    """The largest acceleration of any joint in any frame, metres a second squared."""
    second = joints.diff(n=2, dim=-3).norm(dim=-1).amax(-1) * fps**2
    counts = _changes(joints, valid, 2)
    return torch.where(counts, second, 0).amax(-1)


def bone_error(joints: Tensor, valid: Tensor | None = None, skeleton: Skeleton = HUMAN) -> Tensor:
    """How far bones are from their mean length in the clip, metres, the mean over bones and frames."""
    lengths = skeleton.lengths(joints)  # (..., T, J - 1)
    counts = _changes(joints, valid, 0)[..., None].expand(lengths.shape)
    usual = torch.where(counts, lengths, 0).sum(-2, keepdim=True) / counts.sum(-2, keepdim=True).clamp_min(1)
    return _mean((lengths - usual).abs().mean(-1), counts[..., 0])


def penetration(joints: Tensor, valid: Tensor | None = None) -> Tensor:
    """How deep the lowest joint is in the ground, metres, the mean over frames."""
    deep = (-joints[..., 1].amin(-1)).clamp_min(0)
    return _mean(deep, _changes(joints, valid, 0))


def tilt(joints: Tensor, skeleton: Skeleton = HUMAN) -> Tensor:
    """How far the trunk, from pelvis to neck, leans from the vertical in each frame, (..., T) degrees."""
    trunk = joints[..., skeleton.names.index("neck"), :] - joints[..., 0, :]
    return torch.atan2(trunk[..., [0, 2]].norm(dim=-1), trunk[..., 1]).rad2deg()


def floating(joints: Tensor, valid: Tensor | None = None) -> Tensor:
    """How high the lowest joint is above the ground, metres, the mean over frames: jumps count, too."""
    high = joints[..., 1].amin(-1).clamp_min(0)
    return _mean(high, _changes(joints, valid, 0))


def _changes(joints: Tensor, valid: Tensor | None, order: int) -> Tensor:
    """Which differences of an order count (..., T - order)."""
    counts = torch.ones(joints.shape[:-2], dtype=torch.bool, device=joints.device) if valid is None else valid.bool()
    for _ in range(order):
        counts = counts[..., 1:] & counts[..., :-1]
    return counts


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of what counts (..., T) -> (...), 0 where nothing does."""
    return torch.where(counts, values, 0).sum(-1) / counts.sum(-1).clamp_min(1)
