"""Mirror images of features and of the captions that tell left from right: twice as many motions of a recording."""

from __future__ import annotations

import re

from torch import Tensor

from motion.features import Groups
from motion.skeleton import HUMAN, Skeleton

SIDES = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
SIDES |= {"anticlockwise": "clockwise", "lefthand": "righthand", "righthand": "lefthand"}
SIDES |= {"leftward": "rightward", "rightward": "leftward", "leftwards": "rightwards", "rightwards": "leftwards"}
WORD = re.compile(r"(?<![A-Za-z])(" + "|".join(sorted(SIDES, key=len, reverse=True)) + r")(?![A-Za-z])", re.IGNORECASE)


def mirror(features: Tensor, skeleton: Skeleton = HUMAN) -> Tensor:
    """Features (..., D) of the mirror image: what ``encode`` gives of ``skeleton.reflect(joints)``, without decoding.

    The half turn and the sideways velocity change their sign, joints exchange sides and lose the sign of x, and a
    rotation R becomes M R M with M = diag(-1, 1, 1).
    """
    turn, velocity, _, positions, rotations, velocities, contacts = Groups(skeleton.joints).slices()
    found = features.clone()
    found[..., turn] *= -1
    found[..., velocity.start] *= -1
    joints = list(skeleton.mirror)
    limbs = [joint - 1 for joint in joints[1:]]
    x = features.new_tensor([-1.0, 1.0, 1.0])
    columns = features.new_tensor([1.0, -1.0, -1.0, -1.0, 1.0, 1.0])  # the first column of M R M, then the second
    found[..., positions] = (features[..., positions].unflatten(-1, (-1, 3))[..., limbs, :] * x).flatten(-2)
    found[..., rotations] = (features[..., rotations].unflatten(-1, (-1, 6))[..., limbs, :] * columns).flatten(-2)
    found[..., velocities] = (features[..., velocities].unflatten(-1, (-1, 3))[..., joints, :] * x).flatten(-2)
    places = [skeleton.feet.index(joints[foot]) for foot in skeleton.feet]
    found[..., contacts] = features[..., contacts][..., places]
    return found


def mirror_words(caption: str) -> str:
    """A caption with left and right exchanged, clockwise too; capitals stay as they are."""

    def swap(match: re.Match[str]) -> str:
        word = match[0]
        other = SIDES[word.lower()]
        if word.isupper():
            return other.upper()
        return other.capitalize() if word[0].isupper() else other

    return WORD.sub(swap, caption)
