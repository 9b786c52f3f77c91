"""BVH files: a tree of joints with offsets, and for each frame the numbers of its channels.

Any tree, any order and number of channels. Angles are degrees and compose in the order of the channels; position
channels take the place of the joint's offset, at the root and elsewhere. A broken file is refused with its line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from motion.features import check
from motion.kinematics import forward, rotations
from motion.rotation import euler_to_matrix, matrix_to_euler
from motion.skeleton import HUMAN, Skeleton

POSITIONS = ("Xposition", "Yposition", "Zposition")
ROTATIONS = ("Xrotation", "Yrotation", "Zrotation")


class BvhError(ValueError):
    """A file that is no BVH; the message names the line."""


@dataclass(frozen=True)
class Bvh:
    """A parsed BVH file. Parents come before their children; joint 0 is the root."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Tensor  # (J, 3) float64
    channels: tuple[tuple[str, ...], ...]  # of each joint
    ends: Mapping[int, tuple[float, ...]]  # where the chains end: joint -> offset of its end site
    values: Tensor  # (T, C) float64: the channels of all joints, in order
    frame_time: float  # seconds

    @property
    def fps(self) -> float:
        """Frames a second."""
        return 1 / self.frame_time

    def local(self) -> tuple[Tensor, Tensor]:
        """Rotations (T, J, 3, 3) and offsets (T, J, 3) of the joints from their parents."""
        frames, column = len(self.values), 0
        turned, moved = [], []
        for joint, channels in enumerate(self.channels):
            own = self.values[:, column : column + len(channels)]
            column += len(channels)
            at = self.offsets[joint].repeat(frames, 1)
            angles = [i for i, name in enumerate(channels) if name in ROTATIONS]
            for i, name in enumerate(channels):
                if name in POSITIONS:
                    at[:, POSITIONS.index(name)] = own[:, i]
            order = "".join(channels[i][0] for i in angles)
            still = torch.eye(3, dtype=torch.float64).expand(frames, 3, 3)
            turned.append(euler_to_matrix(torch.deg2rad(own[:, angles]), order) if order else still)
            moved.append(at)
        return torch.stack(turned, dim=1), torch.stack(moved, dim=1)

    def joints(self) -> dict[str, Tensor]:
        """Where each joint is in each frame, (T, 3) by name; the end site of joint "head" is "head.end"."""
        turned, moved = self.local()
        joints, world = forward(turned, moved, moved[:, 0], self.parents)
        found = {name: joints[:, joint] for joint, name in reversed(list(enumerate(self.names)))}
        for joint, offset in self.ends.items():
            tip = world[:, joint] @ self.offsets.new_tensor(offset)
            found.setdefault(f"{self.names[joint]}.end", joints[:, joint] + tip)
        return found

    def resting(self) -> Bvh:
        """One frame of the same body in its rest pose."""
        still = torch.zeros(1, self.values.shape[1], dtype=torch.float64)
        column = 0
        for joint, channels in enumerate(self.channels):
            for name in channels:
                if name in POSITIONS:
                    still[0, column] = self.offsets[joint, POSITIONS.index(name)]
                column += 1
        return Bvh(self.names, self.parents, self.offsets, self.channels, self.ends, still, self.frame_time)


def from_poses(joints: Tensor, fps: float, skeleton: Skeleton = HUMAN, scale: float = 100.0) -> Bvh:
    """A BVH of poses (T, J, 3): every joint turns, the root also moves. ``scale`` 100 makes metres centimetres.

    Bones take the mean length of the clip, so the file is exact where theirs is constant and joints with several bones
    are stiff. Raises ValueError for poses that are none.
    """
    check(joints, skeleton)
    joints = joints.double() * scale
    rest = skeleton.offsets(torch.float64)
    lengths = skeleton.lengths(joints).mean(0)
    offsets = torch.cat([rest[:1], rest[1:] / rest[1:].norm(dim=-1, keepdim=True) * lengths[:, None]])
    turned = rotations(joints, offsets, skeleton.parents)
    # The heading may turn all around, so it comes first at the root; elsewhere Y bends least and stands in the middle.
    orders = ["YXZ"] + ["ZYX"] * (skeleton.joints - 1)
    values = [joints[:, 0]]
    for joint, order in enumerate(orders):
        angles = matrix_to_euler(turned[:, joint], order)
        values.append(torch.from_numpy(np.unwrap(angles.numpy(), axis=0)).rad2deg())
    channels = [tuple(f"{axis}rotation" for axis in order) for order in orders]
    channels[0] = POSITIONS + channels[0]
    ends = {j: (0.0, 0.0, 0.05 * scale) for j in range(skeleton.joints) if not skeleton.children(j)}
    return Bvh(skeleton.names, skeleton.parents, offsets, tuple(channels), ends, torch.cat(values, dim=1), 1 / fps)


def write_bvh(path: Path, bvh: Bvh) -> None:
    """Write a file that reads back within 1e-6 degrees."""
    lines = ["HIERARCHY"]

    def number(values: Sequence[float]) -> str:
        return " ".join(f"{value:.10g}" for value in values)

    def joint(index: int, depth: int) -> None:
        pad = "  " * depth
        lines.append(f"{pad}{'ROOT' if index == 0 else 'JOINT'} {bvh.names[index]}")
        lines.append(f"{pad}{{\n{pad}  OFFSET {number(bvh.offsets[index].tolist())}")
        lines.append(f"{pad}  CHANNELS {' '.join([str(len(bvh.channels[index])), *bvh.channels[index]])}")
        for child in (c for c, parent in enumerate(bvh.parents) if parent == index):
            joint(child, depth + 1)
        if index in bvh.ends:
            lines.append(f"{pad}  End Site\n{pad}  {{\n{pad}    OFFSET {number(bvh.ends[index])}\n{pad}  }}")
        lines.append(f"{pad}}}")

    order = _depth_first(bvh.parents)
    if order != list(range(len(order))):
        bvh = _reordered(bvh, order)
    joint(0, 0)
    lines += ["MOTION", f"Frames: {len(bvh.values)}", f"Frame Time: {bvh.frame_time:.10g}"]
    lines += [number(row) for row in bvh.values.tolist()]
    path.write_text("\n".join(lines) + "\n")


def _depth_first(parents: Sequence[int], joint: int = 0) -> list[int]:
    children = [child for child, parent in enumerate(parents) if parent == joint]
    return [joint, *(below for child in children for below in _depth_first(parents, child))]


def _reordered(bvh: Bvh, order: list[int]) -> Bvh:
    """The same with its joints in another order, as a file lists them: each with all below it."""
    starts = np.cumsum([0, *(len(channels) for channels in bvh.channels)]).tolist()
    columns = [column for joint in order for column in range(starts[joint], starts[joint + 1])]
    return Bvh(
        tuple(bvh.names[j] for j in order),
        tuple(order.index(bvh.parents[j]) if j else -1 for j in order),
        bvh.offsets[order],
        tuple(bvh.channels[j] for j in order),
        {order.index(j): end for j, end in bvh.ends.items()},
        bvh.values[:, columns],
        bvh.frame_time,
    )
