"""The features of HumanML3D and KIT: a frame's pose and its motion, independent of where it is and where it faces.

A frame of J joints is 12 J - 1 numbers (2204.14109, section 4; 263 of 22 joints, 251 of 21):

    turn 1 | velocity 2 | height 1 | positions 3 (J-1) | rotations 6 (J-1) | velocities 3 J | contacts 4

Two traps are in the format. ``turn`` is *half* the angle by which the heading turns until the next frame, because it
is read off a quaternion. And T poses give T - 1 rows, because a row needs the next frame for its velocities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.files import whole
from motion.kinematics import published_forward, published_rotations
from motion.rotation import (
    about_y,
    inverse,
    matrix_to_quaternion,
    matrix_to_six,
    quaternion_to_matrix,
    rotate,
    six_to_matrix,
)
from motion.skeleton import HUMAN, Skeleton

SMOOTH = 20.0  # frames: the deviation of the Gaussian that smooths the heading


@dataclass(frozen=True)
class Groups:
    """Where the parts of a frame's features lie."""

    joints: int

    @property
    def ends(self) -> list[int]:
        """Where each of the seven parts ends."""
        sizes = (1, 2, 1, 3 * (self.joints - 1), 6 * (self.joints - 1), 3 * self.joints, 4)
        return np.cumsum(sizes).tolist()

    def slices(self) -> tuple[slice, ...]:
        """turn, velocity, height, positions, rotations, velocities, contacts."""
        return tuple(slice(start, end) for start, end in zip([0, *self.ends], self.ends))


def check(joints: Tensor, skeleton: Skeleton = HUMAN) -> None:
    """Raises ValueError unless these are two or more finite poses (..., T, J, 3) of the skeleton."""
    if joints.ndim < 3 or joints.shape[-2:] != (skeleton.joints, 3):
        raise ValueError(
            f"poses must be (frames, {skeleton.joints}, 3), not {tuple(joints.shape)}: retarget them first"
        )
    if joints.shape[-3] < 2:
        raise ValueError(f"a clip of {joints.shape[-3]} frames has no motion to describe: give at least 2")
    if not bool(joints.isfinite().all()):
        raise ValueError("the poses contain NaN or infinity: repair or cut those frames")


def heading(joints: Tensor, skeleton: Skeleton = HUMAN, smooth: float = SMOOTH) -> Tensor:
    """Angles (..., T) in radians by which poses (..., T, J, 3) face away from +z towards +x, without jumps.

    The direction is at right angles to the shoulders less the hips, smoothed over time, as the released code has it
    (its helper takes the two hips in the other order). ``smooth`` 0 takes each frame for itself.
    """
    right_hip, left_hip, right_shoulder, left_shoulder = skeleton.facing
    across = joints[..., left_hip, :] - joints[..., right_hip, :]
    across = across + joints[..., right_shoulder, :] - joints[..., left_shoulder, :]
    across = across / across.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    forward = torch.stack([across[..., 2], -across[..., 0]], dim=-1)  # (..., T, 2): x and z of y x across
    if smooth > 0:
        forward = _gaussian(forward, smooth)
    angle = torch.atan2(forward[..., 0], forward[..., 1])
    step = angle.diff(dim=-1)
    jumps = torch.round(step / (2 * torch.pi)).cumsum(-1) * (2 * torch.pi)
    return torch.cat([angle[..., :1], angle[..., 1:] - jumps], dim=-1)


def _gaussian(x: Tensor, deviation: float) -> Tensor:
    """(..., T, C) smoothed over T, the ends repeated, four deviations wide."""
    radius = int(4 * deviation + 0.5)
    reach = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.softmax(-0.5 * (reach / deviation) ** 2, dim=0)
    rows = x.transpose(-1, -2).reshape(-1, 1, x.shape[-2])
    smooth = F.conv1d(F.pad(rows, (radius, radius), mode="replicate"), kernel[None, None])
    return smooth.view(*x.shape[:-2], x.shape[-1], x.shape[-2]).transpose(-1, -2)


def canonical(joints: Tensor, skeleton: Skeleton = HUMAN) -> Tensor:
    """Poses (..., T, J, 3) on the floor, from the origin, facing +z: the frame in which ``decode`` returns them.

    The lowest joint of the clip is at height 0. Raises ValueError for poses that are none, see ``check``.
    """
    check(joints, skeleton)
    start = joints[..., :1, :1, :] * joints.new_tensor([1.0, 0.0, 1.0])
    floor = joints[..., 1].amin((-1, -2), keepdim=True)[..., None] * joints.new_tensor([0.0, 1.0, 0.0])
    turned = about_y(-heading(joints, skeleton)[..., :1, None])  # (..., 1, 1, 4)
    return rotate(turned, joints - start - floor)


def faced(joints: Tensor, skeleton: Skeleton = HUMAN) -> Tensor:
    """Poses (..., T, J, 3) turned about the vertical so that the first one by itself faces +z, as films show them.

    ``canonical`` instead turns the smoothed heading there, without which features would not give back their poses.
    """
    first = heading(joints[..., :1, :, :], skeleton, smooth=0)
    return rotate(about_y(-first)[..., None, :], joints)


def encode(joints: Tensor, skeleton: Skeleton = HUMAN) -> Tensor:
    """Poses (..., T, J, 3) -> features (..., T - 1, 12 J - 1). Raises ValueError for poses that are none."""
    check(joints, skeleton)
    angle = heading(joints, skeleton)
    undo = about_y(-angle)  # (..., T, 4): takes the heading to +z
    moved = joints.diff(dim=-3)
    positions, rotations, velocities = limbs(joints, undo, skeleton)
    root = rotate(undo[..., 1:, :], moved[..., 0, :])
    contacts = (moved[..., list(skeleton.feet), :].square().sum(-1) < skeleton.still).to(joints)
    return torch.cat(
        [
            -angle.diff(dim=-1)[..., None] / 2,
            root[..., [0, 2]],
            joints[..., :-1, 0, 1:2],
            positions[..., :-1, :, :].flatten(-2),
            rotations[..., :-1, :, :].flatten(-2),
            velocities.flatten(-2),
            contacts,
        ],
        dim=-1,
    )


def limbs(joints: Tensor, undo: Tensor, skeleton: Skeleton = HUMAN) -> tuple[Tensor, Tensor, Tensor]:
    """Features of joints (..., T, J, 3), where ``undo`` (..., T, 4) takes the heading to +z.

    Positions (..., T, J - 1, 3), rotations (..., T, J - 1, 6) and the velocities to the next frame (..., T - 1, J, 3).
    """
    ground = joints.new_tensor([1.0, 0.0, 1.0])
    positions = rotate(undo[..., None, :], joints - joints[..., :1, :] * ground)[..., 1:, :]
    turned = published_rotations(joints, undo, skeleton)[..., 1:, :]
    velocities = rotate(undo[..., :-1, None, :], joints.diff(dim=-3))
    return positions, matrix_to_six(quaternion_to_matrix(turned)), velocities


def decode_root(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features (..., T, D) -> the rotation (..., T, 4) that takes the heading to +z, and the root (..., T, 3).

    The half angles add up to a quaternion directly: (cos a, 0, sin a, 0). Row t's velocity is that from row t to t + 1.
    """
    half = F.pad(features[..., :-1, 0], (1, 0)).cumsum(-1)
    undo = about_y(2 * half)
    zero = torch.zeros_like(features[..., :-1, 1])
    moved = torch.stack([features[..., :-1, 1], zero, features[..., :-1, 2]], dim=-1)
    path = F.pad(rotate(inverse(undo[..., 1:, :]), moved), (0, 0, 1, 0)).cumsum(-2)
    return undo, torch.stack([path[..., 0], features[..., 3], path[..., 2]], dim=-1)


def decode(features: Tensor, skeleton: Skeleton = HUMAN) -> Tensor:
    """Features (..., T, 12 J - 1) -> poses (..., T, J, 3) from the positions, as metrics want them."""
    undo, root = decode_root(features)
    limbs = range(1, skeleton.joints)
    return torch.cat([root[..., None, :], _standing(features, undo, root, limbs, skeleton)], dim=-2)


def decode_limbs(features: Tensor, joints: Sequence[int], skeleton: Skeleton = HUMAN) -> Tensor:
    """Features (..., T, 12 J - 1) -> some joints (..., T, N, 3), none of them the root, as ``decode`` has them."""
    return _standing(features, *decode_root(features), joints, skeleton)


def _standing(features: Tensor, undo: Tensor, root: Tensor, joints: Sequence[int], skeleton: Skeleton) -> Tensor:
    """Joints (..., T, N, 3) where the body stands and faces. Raises ValueError for features of another skeleton."""
    if features.shape[-1] != skeleton.features:
        raise ValueError(f"a frame of this skeleton has {skeleton.features} features, not {features.shape[-1]}")
    positions = features[..., Groups(skeleton.joints).slices()[3]].unflatten(-1, (skeleton.joints - 1, 3))
    if len(joints) < skeleton.joints - 1:
        positions = positions[..., [joint - 1 for joint in joints], :]
    ground = root[..., None, :] * root.new_tensor([1.0, 0.0, 1.0])
    return rotate(inverse(undo)[..., None, :], positions) + ground


def decode_rotations(features: Tensor, lengths: Tensor, skeleton: Skeleton = HUMAN) -> Tensor:
    """Features (..., T, 12 J - 1) -> poses (..., T, J, 3) from the rotations, with bones of lengths (..., J - 1)."""
    undo, root = decode_root(features)
    six = features[..., Groups(skeleton.joints).slices()[4]].unflatten(-1, (skeleton.joints - 1, 6))
    local = torch.cat([undo[..., None, :], matrix_to_quaternion(six_to_matrix(six))], dim=-2)
    return published_forward(local, lengths, root, skeleton)


@dataclass(frozen=True)
class Normal:
    """Features as numbers of mean 0 and deviation about 1; the deviation is one number for each part of a frame."""

    mean: Tensor  # (D,)
    deviation: Tensor  # (D,)

    def __post_init__(self) -> None:
        """Raises ValueError where a deviation is not positive or a number not finite."""
        if self.mean.shape != self.deviation.shape or not bool((self.deviation > 0).all() & self.mean.isfinite().all()):
            raise ValueError("a normalisation needs as many positive deviations as finite means: measure it again")

    @classmethod
    def of(cls, frames: Tensor, joints: int) -> Normal:
        """Measure rows of features (N, 12 J - 1) as the released code does: deviations averaged in each part."""
        deviation, mean = torch.std_mean(frames.double(), dim=0)
        for part in Groups(joints).slices():
            deviation[part] = deviation[part].mean().clamp_min(1e-6)
        return cls(mean.float(), deviation.float())

    @classmethod
    def read(cls, folder: Path) -> Normal:
        """``Mean.npy`` and ``Std.npy`` of a published folder. Raises ValueError where they are missing."""
        try:
            mean, deviation = (np.load(folder / name, allow_pickle=False) for name in ("Mean.npy", "Std.npy"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} has no readable Mean.npy and Std.npy: copy them from the data set") from error
        return cls(torch.from_numpy(mean).float(), torch.from_numpy(deviation).float())

    def write(self, folder: Path) -> None:
        """Write ``Mean.npy`` and ``Std.npy``."""
        with whole(folder / "Mean.npy") as mean, whole(folder / "Std.npy") as deviation:
            np.save(mean, self.mean.numpy())
            np.save(deviation, self.deviation.numpy())

    def apply(self, features: Tensor) -> Tensor:
        """Features (..., D) -> normalised."""
        return (features - self.mean.to(features)) / self.deviation.to(features)

    def undo(self, x: Tensor) -> Tensor:
        """Normalised (..., D) -> features."""
        return x * self.deviation.to(x) + self.mean.to(x)
