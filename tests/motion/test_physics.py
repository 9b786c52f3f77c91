"""Physical figures: each against a motion whose figure is known."""

from __future__ import annotations

import math

import pytest
import torch

from motion.kinematics import forward
from motion.physics import acceleration, bone_error, floating, jerk, penetration, skating, sliding
from motion.skeleton import HUMAN

FPS = 20.0


def standing(frames: int) -> torch.Tensor:
    """A body at rest whose toes are on the ground."""
    local = torch.eye(3, dtype=torch.float64).expand(22, 3, 3)
    joints, _ = forward(local, HUMAN.offsets(torch.float64), torch.zeros(3).double(), HUMAN.parents)
    joints[:, 1] -= joints[:, 1].min()
    return joints.expand(frames, 22, 3).clone()


def test_a_body_at_rest_does_nothing_wrong() -> None:
    still = standing(30)
    for figure in (skating(still, FPS), sliding(still, FPS), jerk(still, FPS), acceleration(still, FPS)):
        assert float(figure) == 0
    assert float(bone_error(still)) == pytest.approx(0, abs=1e-12)
    assert float(penetration(still)) == float(floating(still)) == 0


def test_sliding_feet_are_counted_only_on_the_ground_and_only_when_fast() -> None:
    slide = standing(41)
    slide[20:, :, 0] += 0.06 * torch.arange(1, 22, dtype=torch.float64)[:, None]  # 1.2 m/s in the second half
    slide[20:, :, 0] -= 0.06
    assert float(skating(slide, FPS)) == pytest.approx(20 / 40)
    assert float(sliding(slide, FPS)) == pytest.approx(1.2 * 20 / 40)
    assert float(skating(slide + torch.tensor([0, 0.06, 0]).double(), FPS)) == 0
    slow = standing(41)
    slow[:, :, 0] += 0.024 * torch.arange(41, dtype=torch.float64)[:, None]
    assert float(skating(slow, FPS)) == 0
    assert float(sliding(slow, FPS)) == pytest.approx(0.48)


def test_jerk_and_acceleration_of_polynomials() -> None:
    time = torch.arange(30, dtype=torch.float64) / FPS
    fall = standing(30)
    fall[..., 1] += (5 * time**2)[:, None]
    assert float(acceleration(fall, FPS)) == pytest.approx(10)
    assert float(jerk(fall, FPS)) == pytest.approx(0, abs=1e-6)
    cubic = standing(30)
    cubic[..., 2] += (2 * time**3)[:, None]
    assert float(jerk(cubic, FPS)) == pytest.approx(12)
    assert float(acceleration(cubic, FPS)) == pytest.approx(12 * float(time[-2]))


def test_bone_error_and_penetration() -> None:
    stretched = standing(2)
    head = HUMAN.names.index("head")
    bone = stretched[0, head] - stretched[0, HUMAN.parents[head]]
    stretched[1, head] += 0.1 * bone / bone.norm()
    assert float(bone_error(stretched)) == pytest.approx(0.05 / 21)
    sunk = standing(4)
    sunk[2:, :, 1] -= 0.1
    assert float(penetration(sunk)) == pytest.approx(0.05)
    sunk[2:, :, 1] += 0.3
    assert float(floating(sunk)) == pytest.approx(0.1)


def test_padding_does_not_count() -> None:
    clip = torch.stack([standing(20), standing(20)])
    clip[:, 10:] += 100 * torch.rand(2, 10, 22, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.arange(20).expand(2, 20) < 10
    figures = [f(clip, FPS, valid) for f in (skating, sliding, jerk, acceleration)]
    figures += [f(clip, valid) for f in (bone_error, penetration, floating)]
    for figure in figures:
        assert figure.shape == (2,)
        assert figure.tolist() == pytest.approx([0, 0], abs=1e-9)
    assert math.isfinite(float(jerk(clip, FPS, valid & False).sum()))
