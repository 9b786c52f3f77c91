"""How feet rest, step and slide in the data: what foot-skate cleanup goes by.

Dancers slide and pivot, and a figure's toes may be higher than another's: what is cleaned away must be what the data do
not do themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motion.features import decode_limbs
from motion.physics import NEAR, SLIDE
from motion.skeleton import HUMAN, Skeleton

SLIDING = 0.05  # share of the frames with a toe on the ground, above which data slide themselves
RESTING = 0.2  # metres a second: a toe that is slower rests, whatever its height


@dataclass(frozen=True)
class Feet:
    """Thresholds of the cleanup; by default those of people who stand where they stand.

    low: a toe above is not planted; slide: one that touches the ground and is faster, in metres a second, is lifted.
    """

    low: float = 0.08
    slide: float = SLIDE

    @classmethod
    def of(cls, features: Sequence[Tensor], skeleton: Skeleton = HUMAN) -> Feet:
        """Measured on clips of features (T, D): where toes rest, and how fast they slide.

        A toe is low below the height that 95 % of resting toes keep. Where toes slide in more than 5 % of the frames in
        which they touch the ground, only those are lifted that are faster than half of the sliding ones.
        """
        heights, speeds = (torch.cat(list(parts)) for parts in zip(*(_steps(clip, skeleton) for clip in features)))
        resting = heights[speeds < RESTING]
        low = float(resting.quantile(0.95)) + 0.01 if len(resting) > 20 else cls.low
        low = round(min(max(low, 0.04), 0.15), 4)
        touching = speeds[heights < NEAR]
        sliding = touching[touching > SLIDE]
        return (
            cls(low, round(float(sliding.median()), 4)) if len(sliding) > max(SLIDING * len(touching), 5) else cls(low)
        )


def _steps(features: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Heights and speeds over the ground of both toes, from a frame to the next, as flat tensors."""
    toes = decode_limbs(features.double(), [skeleton.feet[1], skeleton.feet[3]], skeleton)
    speed = toes[..., [0, 2]].diff(dim=0).norm(dim=-1) * skeleton.fps
    return torch.maximum(toes[1:, :, 1], toes[:-1, :, 1]).flatten(), speed.flatten()
