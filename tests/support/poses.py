"""Random but true poses: bones of constant length that turn smoothly while the root walks a winding path."""

from __future__ import annotations

import torch
from torch import Tensor

from motion.kinematics import forward
from motion.rotation import about_y, euler_to_matrix, quaternion_to_matrix
from motion.skeleton import HUMAN, Skeleton


def wander(frames: int, seed: int = 0, turn: float = 4.0, skeleton: Skeleton = HUMAN) -> Tensor:
    """Poses (T, J, 3) in float64 of a body that turns by ``turn`` radians in all."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.linspace(0, 1, frames, dtype=torch.float64)
    shape = (skeleton.joints, 3)
    size, rate, phase = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    angles = 0.5 * size * torch.sin(6.28 * (rate * 2 * time[:, None, None] + phase))
    local = euler_to_matrix(angles, "ZXY")
    local[:, 0] = quaternion_to_matrix(about_y(turn * time)) @ euler_to_matrix(0.2 * angles[:, 0], "XZ"[:2] + "Y")
    root = torch.stack([2 * torch.sin(3 * time), 0.95 + 0.03 * torch.cos(20 * time), 3 * time], dim=-1)
    return forward(local, skeleton.offsets(torch.float64), root, skeleton.parents)[0]
