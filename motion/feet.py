"""How feet rest, step and slide in the data: what foot-skate cleanup goes by.

Dancers slide and pivot, and a figure's toes may be higher than another's: what is cleaned away must be what the data do
not do themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motion.features import decode_limbs
from motion.physics import NEAR, SLIDE
from motion.skeleton import HUMAN, Skeleton

BINS = 64  # of the logarithm of speeds
SLIDING = 0.05  # share of the frames with a toe on the ground, above which data slide themselves
RESTING = 0.2  # metres a second: a toe that is slower rests, whatever its height


@dataclass(frozen=True)
class Feet:
    """Thresholds of the cleanup; by default those of people who stand where they stand.

    low: a toe above is not planted; slow: one that is faster is not, in metres a second, 0 for the skeleton's own
    threshold of contact; slide: one that touches the ground and is faster is lifted.
    """

    low: float = 0.08
    slow: float = 0.0
    slide: float = SLIDE

    def still(self, skeleton: Skeleton) -> float:
        """Metres a frame below which a toe may be planted."""
        return min(self.slow / skeleton.fps if self.slow else math.inf, skeleton.still**0.5)

    @classmethod
    def of(cls, features: Sequence[Tensor], skeleton: Skeleton = HUMAN) -> Feet:
        """Measured on clips of features (T, D): where toes rest, and which speed parts rest from steps.

        A toe is low below the height that 95 % of resting toes keep. Where toes slide in more than 5 % of the frames in
        which they touch the ground, those slide that are faster than 98 % of them, and rest and steps are parted where
        the variance of log speeds within both is least (Otsu 1979).
        """
        heights, speeds = (torch.cat(list(parts)) for parts in zip(*(_steps(clip, skeleton) for clip in features)))
        resting = heights[speeds < RESTING]
        low = float(resting.quantile(0.95)) + 0.01 if len(resting) > 20 else cls.low
        low = min(max(low, 0.04), 0.15)
        on_ground, touching = speeds[heights < low], speeds[heights < NEAR]
        if len(touching) <= 100 or float((touching > SLIDE).double().mean()) <= SLIDING:
            return cls(round(low, 4))
        slow = min(max(otsu(on_ground), 0.1), skeleton.still**0.5 * skeleton.fps)
        return cls(round(low, 4), round(slow, 4), round(max(SLIDE, float(touching.quantile(0.98))), 4))


def _steps(features: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Heights and speeds over the ground of both toes, from a frame to the next, as flat tensors."""
    toes = decode_limbs(features.double(), [skeleton.feet[1], skeleton.feet[3]], skeleton)
    speed = toes[..., [0, 2]].diff(dim=0).norm(dim=-1) * skeleton.fps
    return torch.maximum(toes[1:, :, 1], toes[:-1, :, 1]).flatten(), speed.flatten()


def otsu(speeds: Tensor) -> float:
    """The speed that parts slow from fast ones so that logarithms vary least within both."""
    logs = speeds.clamp_min(1e-3).log()
    low, high = float(logs.min()), float(logs.max())
    if high - low < 1e-6:
        return math.exp(low)
    counts = torch.histc(logs, BINS, low, high)
    middles = torch.linspace(low, high, BINS + 1, dtype=logs.dtype)[:-1] + (high - low) / BINS / 2
    below, sums = counts.cumsum(0), (counts * middles).cumsum(0)
    above = below[-1] - below
    apart = sums / below.clamp_min(1e-9) - (sums[-1] - sums) / above.clamp_min(1e-9)
    between = below * above * apart**2
    return math.exp(low + (int(between.argmax()) + 1) * (high - low) / BINS)
