"""Feet that rest stay where they are: the root goes where the feet push it.

A clip's contacts say which toes rest. While one does, the body moves about it, so the velocity of the root follows from
the pose: with p_t the toe beside the root as seen in the world, the toe stays if

    root_t+1 - root_t = p_t - p_t+1

Of two toes that rest the one counts that asks for less of a change: an estimate may take a swinging foot for resting.

It mends each estimate of x0 as guidance does, under any sampler, and only where little noise is left: earlier estimates
are means over many motions, whose feet neither rest nor step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bindable
from core.guidance import Guided, Interval, Thresholded
from core.system import Guide
from motion.features import Groups, Normal, decode_root
from motion.rotation import inverse, rotate
from motion.skeleton import HUMAN, Skeleton


@dataclass(frozen=True)
class Planted:
    """x0 (B, T, D), normalised, whose root moves as the resting toes say; frames without one keep their velocity.

    Heels rise while a foot rolls, so they say nothing.
    """

    normal: Callable[[], Normal]
    skeleton: Skeleton = HUMAN

    def __call__(self, clean: Tensor) -> Tensor:
        normal = self.normal()
        features = normal.undo(clean)
        _, velocity, _, positions, _, _, contacts = Groups(self.skeleton.joints).slices()
        undo, _ = decode_root(features)
        joints = features[..., positions].unflatten(-1, (self.skeleton.joints - 1, 3))
        toes = joints[:, :, [joint - 1 for joint in self.skeleton.feet[1::2]]]  # (B, T, 2, 3), as the body faces
        world = rotate(inverse(undo)[:, :, None], toes)
        rests = features[:, :-1, contacts][..., 1::2] > 0.5  # (B, T - 1, 2): row t tells of the way to row t + 1
        pushed = -world.diff(dim=1)  # (B, T - 1, 2, 3), what each toe asks for
        # A velocity is told as the body faces in the frame that it leads to.
        told = rotate(undo[:, 1:, None], pushed)[..., [0, 2]]
        kept = features[:, :-1, velocity]
        away = (told - kept[:, :, None]).norm(dim=-1).masked_fill(~rests, torch.inf)
        nearest = away.argmin(-1)[..., None, None].expand(-1, -1, 1, 2)
        mended = torch.where(rests.any(-1, keepdim=True), told.gather(2, nearest)[:, :, 0], kept)
        body = torch.cat([mended, features[:, -1:, velocity]], dim=1)
        return normal.apply(torch.cat([features[..., : velocity.start], body, features[..., velocity.stop :]], dim=-1))


def planting(normal: Callable[[], Normal], below: float = 0.3, within: Guide = Guided) -> Guide:
    """A guidance that also plants the feet where noise is less than ``below`` times the signal."""

    def guide(denoiser: Bindable, null: Cond, scale: float) -> Bindable:
        guided = within(denoiser, null, scale)
        return Interval(Thresholded(guided, Planted(normal)), guided, high=below)

    return guide
