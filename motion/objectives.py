"""Geometric losses: what the features of a clip mean, in metres, as a term added to the error of the features.

With FK the joints that features decode to, c_i whether a foot rests at frame i (2209.14916, equations 3 to 5):

    positions   ||FK(x0) - FK(x)||^2
    velocities  ||(FK(x0)_i+1 - FK(x0)_i) - (FK(x)_i+1 - FK(x)_i)||^2
    contacts    ||(FK(x)_i+1 - FK(x)_i) c_i||^2                          of the feet only

They are terms of ``core.objective.Objective(auxiliary_loss=...)``, which converts the prediction to x0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from motion.features import Groups, Normal, decode, decode_limbs
from motion.skeleton import HUMAN, Skeleton


@dataclass(frozen=True)
class GeometricLoss:
    """The weighted sum of the three losses, each a mean over frames, joints and axes, in square metres.

    From the root on positions add up over a clip, so their errors do, too; ``local`` leaves the root's path out of
    the positions and velocities, and compares poses. Contacts are the true ones of x0. ``normal`` is asked for when the
    first loss is, because a system is built before its data are read.
    """

    normal: Callable[[], Normal]
    positions: float = 1.0
    velocities: float = 1.0
    contacts: float = 1.0
    local: bool = False
    skeleton: Skeleton = HUMAN

    def __post_init__(self) -> None:
        """Raises ValueError for a weight below 0."""
        if min(self.positions, self.velocities, self.contacts) < 0:
            raise ValueError("the weights of geometric losses must not be negative")

    def __call__(self, clean: Tensor, x: Tensor, valid: Tensor | None) -> Tensor:
        """The loss of x0 as it is estimated (B, T, D), normalised, against the true x -> (B,)."""
        normal = self.normal()
        features, truth = normal.undo(clean), normal.undo(x)
        exists = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
        both = exists[:, 1:] & exists[:, :-1]
        rests = truth[..., Groups(self.skeleton.joints).slices()[6]] > 0.5  # (B, T, 4)
        slides = decode_limbs(features, self.skeleton.feet, self.skeleton).diff(dim=1) * rests[:, :-1, :, None]
        joints_of = local_joints if self.local else decode
        guess, known = joints_of(features, self.skeleton), joints_of(truth, self.skeleton)  # (B, T, J or J - 1, 3)
        return (
            self.positions * masked_mean((guess - known) ** 2, exists)
            + self.velocities * masked_mean((guess.diff(dim=1) - known.diff(dim=1)) ** 2, both)
            + self.contacts * masked_mean(slides**2, both)
        )


def local_joints(features: Tensor, skeleton: Skeleton = HUMAN) -> Tensor:
    """Features (B, T, D) -> joints (B, T, J - 1, 3) about the root, as the body faces."""
    return features[..., Groups(skeleton.joints).slices()[3]].unflatten(-1, (skeleton.joints - 1, 3))


def masked_mean(error: Tensor, exists: Tensor) -> Tensor:
    """The mean of error (B, T, ...) over the frames that exist (B, T): (B,)."""
    each = error.flatten(2).mean(-1) * exists
    return each.sum(1) / exists.sum(1).clamp(min=1)
