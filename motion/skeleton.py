"""Skeletons: which joints there are, what hangs on what, and how long the bones are.

The 22 joints of HumanML3D are those of SMPL without the hands (2204.14109, section 4); KIT's are 21 (1607.03827).
Both have y up and metres in our hands. ``directions`` are the bones' rest directions of the published features, which
the 6-D rotations are measured from; ``rest`` is a natural pose with spread arms, for files that show one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Skeleton:
    """Joints in an order where parents come first; joint 0 is the root, whose parent is -1."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    directions: tuple[Point, ...]  # unit vectors from each joint's parent, in the rest pose of the features
    rest: tuple[Point, ...]  # metres from each joint's parent, in a natural rest pose
    facing: tuple[int, int, int, int]  # right hip, left hip, right shoulder, left shoulder
    feet: tuple[int, int, int, int]  # left ankle, left toe, right ankle, right toe
    still: float  # a foot rests where it moves by less than this a frame, squared
    fps: float

    @property
    def joints(self) -> int:
        """How many joints."""
        return len(self.parents)

    @property
    def features(self) -> int:
        """How many numbers describe a frame, see ``motion.features``."""
        return 12 * self.joints - 1

    @cached_property
    def mirror(self) -> tuple[int, ...]:
        """Each joint's partner on the other side; joints of the middle are their own."""
        swap = {"left": "right", "right": "left"}
        turned = [next((f"{swap[s]}{n[len(s) :]}" for s in swap if n.startswith(s)), n) for n in self.names]
        return tuple(self.names.index(name) for name in turned)

    def children(self, joint: int) -> tuple[int, ...]:
        """The joints that hang on one."""
        return tuple(child for child, parent in enumerate(self.parents) if parent == joint)

    def offsets(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The natural rest pose: each joint from its parent, (J, 3) metres."""
        return torch.tensor(self.rest, dtype=dtype)

    def lengths(self, joints: Tensor) -> Tensor:
        """Lengths of the bones of poses (..., J, 3) -> (..., J - 1), bone i - 1 being that of joint i."""
        return (joints[..., 1:, :] - joints[..., list(self.parents[1:]), :]).norm(dim=-1)

    def reflect(self, joints: Tensor) -> Tensor:
        """The mirror image of poses (..., J, 3): x negated, left and right exchanged."""
        return joints[..., list(self.mirror), :] * joints.new_tensor([-1.0, 1.0, 1.0])


HUMAN = Skeleton(
    names=(
        *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle"),
        *("right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head"),
        *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    ),
    parents=(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19),
    directions=(
        *((0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, -1, 0), (0, 1, 0), (0, -1, 0), (0, -1, 0)),
        *((0, 1, 0), (0, 0, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1)),
        *((0, -1, 0), (0, -1, 0), (0, -1, 0), (0, -1, 0), (0, -1, 0), (0, -1, 0)),
    ),
    rest=(
        *((0, 0, 0), (0.065, -0.085, 0), (-0.065, -0.085, 0), (0, 0.11, -0.02), (0.04, -0.38, 0), (-0.04, -0.38, 0)),
        *((0, 0.135, 0.01), (-0.015, -0.41, -0.03), (0.015, -0.41, -0.03), (0, 0.055, 0.01)),
        *((0.02, -0.055, 0.125), (-0.02, -0.055, 0.125), (0, 0.21, -0.03), (0.075, 0.115, -0.015)),
        *((-0.075, 0.115, -0.015), (0, 0.09, 0.05), (0.11, 0.045, -0.01), (-0.11, 0.045, -0.01)),
        *((0.26, 0, 0), (-0.26, 0, 0), (0.25, 0, 0), (-0.25, 0, 0)),
    ),
    facing=(2, 1, 17, 16),
    feet=(7, 10, 8, 11),
    still=0.002,
    fps=20.0,
)

# The published KIT code calls the chains 5-7 and 11-15 right, though they lie along +x in its rest directions.
KIT = Skeleton(
    names=(
        *("root", "spine1", "spine2", "neck", "head", "right_shoulder", "right_elbow", "right_wrist"),
        *("left_shoulder", "left_elbow", "left_wrist", "right_hip", "right_knee", "right_ankle", "right_heel"),
        *("right_foot", "left_hip", "left_knee", "left_ankle", "left_heel", "left_foot"),
    ),
    parents=(-1, 0, 1, 2, 3, 3, 5, 6, 3, 8, 9, 0, 11, 12, 13, 14, 0, 16, 17, 18, 19),
    directions=(
        *((0, 0, 0), (0, 1, 0), (0, 1, 0), (0, 1, 0), (0, 1, 0), (1, 0, 0), (0, -1, 0), (0, -1, 0), (-1, 0, 0)),
        *((0, -1, 0), (0, -1, 0), (1, 0, 0), (0, -1, 0), (0, -1, 0), (0, 0, 1), (0, 0, 1), (-1, 0, 0)),
        *((0, -1, 0), (0, -1, 0), (0, 0, 1), (0, 0, 1)),
    ),
    rest=(
        *((0, 0, 0), (0, 0.1, 0), (0, 0.2, 0), (0, 0.25, 0), (0, 0.1, 0), (-0.18, 0, 0), (-0.28, 0, 0)),
        *((-0.25, 0, 0), (0.18, 0, 0), (0.28, 0, 0), (0.25, 0, 0), (-0.1, -0.05, 0), (0, -0.4, 0), (0, -0.42, 0)),
        *((0, -0.03, 0.03), (0, -0.03, 0.1), (0.1, -0.05, 0), (0, -0.4, 0), (0, -0.42, 0)),
        *((0, -0.03, 0.03), (0, -0.03, 0.1)),
    ),
    facing=(11, 16, 5, 8),
    feet=(19, 20, 14, 15),
    still=0.05,
    fps=12.5,
)
