"""Feet that rest stay, feet that travel are lifted: with known answers, on true motions and under guidance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, Estimate
from core.schedule import Flow
from motion import physics
from motion.features import Groups, Normal, decode, decode_rotations
from motion.foot_skate import clean_foot_skate, corrected_toe, foot_skate_cleanup, interpolated_shift
from motion.generator import Motions, normal_of
from motion.physics import NEAR
from motion.skeleton import HUMAN, KIT

CONTACTS, VELOCITY = Groups(22).slices()[-1], Groups(22).slices()[1]
LEGS = [4, 5, 7, 8, 10, 11]  # knees, ankles, toes
EVERY = torch.ones(1, 6, dtype=torch.bool)  # frame


@pytest.fixture(scope="module")
def normal() -> Normal:
    return normal_of()


@pytest.fixture(scope="module")
def clips(normal: Normal) -> tuple[Tensor, Tensor]:
    """Features (B, T, D) of true motions, and which frames exist."""
    found = Motions(24, normal).get(range(24))
    return normal.undo(found["x"].double()), found["valid"]


def gliding(features: Tensor) -> Tensor:
    """Everybody glides forward by 2 cm a frame more than the legs go."""
    glide = features.clone()
    glide[..., VELOCITY.start + 1] += 0.02
    return glide


def test_a_toe_that_creeps_while_it_rests_stands_in_the_middle() -> None:
    toe = torch.zeros(1, 6, 3, dtype=torch.float64)
    toe[0, :, 0] = torch.arange(6) * 0.02
    found = corrected_toe(toe, EVERY, EVERY)
    torch.testing.assert_close(found[0, :, 0], torch.full((6,), 0.05, dtype=torch.float64))
    assert bool((found[..., 1:] == 0).all())


def test_a_shift_fades_from_plant_to_plant_and_is_constant_at_the_ends() -> None:
    shift = torch.zeros(1, 7, 2, dtype=torch.float64)
    shift[0, 1], shift[0, 5] = 1.0, 3.0
    known = torch.tensor([[False, True, False, False, False, True, False]])
    wanted = torch.tensor([1, 1, 1 + 2 * 5 / 32, 2, 1 + 2 * 27 / 32, 3, 3], dtype=torch.float64)  # 3 s^2 - 2 s^3
    torch.testing.assert_close(interpolated_shift(shift, known)[0, :, 0], wanted)
    assert bool((interpolated_shift(torch.zeros(1, 7, 2), torch.zeros(1, 7, dtype=torch.bool)) == 0).all())


def test_between_two_plants_there_is_a_step() -> None:
    toe = torch.zeros(1, 6, 3)
    toe[0, 3:, 0] = 0.3  # a jump along the ground, from one frame to the next
    found = corrected_toe(toe, EVERY, EVERY)
    arch = [(1 + math.cos(math.pi * away / 4)) / 2 for away in (3, 2, 1, 0, 1, 2)]
    assert found[0, :, 1].tolist() == pytest.approx([1.1 * NEAR * share for share in arch])
    assert found[0, [0, 1, 2, 4, 5], 0].tolist() == pytest.approx([0, 0, 0, 0.3, 0.3])


def test_gliding_feet_no_longer_slide_and_bones_keep_their_length(clips: tuple[Tensor, Tensor]) -> None:
    features, exists = clips
    glide = gliding(features)
    before, after = decode(glide), decode(clean_foot_skate(glide, exists))
    slid, slides = (physics.sliding(joints, HUMAN.fps, exists).mean() for joints in (before, after))
    assert float(slid) > 0.3 and float(slides) < 0.1 * float(slid)
    assert float(physics.skating(after, HUMAN.fps, exists).mean()) < 0.01
    torch.testing.assert_close(HUMAN.lengths(after), HUMAN.lengths(before), rtol=0, atol=1e-9)
    others = [joint for joint in range(22) if joint not in LEGS]
    torch.testing.assert_close(after[:, :, others], before[:, :, others], rtol=0, atol=1e-12)


def test_all_parts_of_the_features_tell_of_the_same_legs(clips: tuple[Tensor, Tensor]) -> None:
    features, exists = clips
    planted = clean_foot_skate(gliding(features), exists)
    joints = decode(planted)
    by_rotations = decode_rotations(planted, HUMAN.lengths(joints))
    torch.testing.assert_close(by_rotations[exists], joints[exists], rtol=0, atol=1e-6)
    condition = planted[..., Groups(22).slices()[5]].unflatten(-1, (22, 3))[:, :-1, LEGS]
    assert torch.allclose(condition.norm(dim=-1), joints.diff(dim=1)[:, :, LEGS].norm(dim=-1), atol=1e-9)


def test_true_motions_hardly_move_and_a_second_time_not_at_all(clips: tuple[Tensor, Tensor]) -> None:
    features, exists = clips
    once = clean_foot_skate(features, exists)
    moved = (decode(once) - decode(features)).norm(dim=-1)[exists]
    assert 0 < float(moved.mean()) < 3e-3
    again = (decode(clean_foot_skate(once, exists)) - decode(once)).norm(dim=-1)[exists]
    assert float(again.mean()) < 0.1 * float(moved.mean())


def test_frames_that_do_not_exist_say_nothing(clips: tuple[Tensor, Tensor]) -> None:
    features, exists = clips
    short = exists & (torch.arange(exists.shape[1]) < 30)
    other = features.clone()
    other[:, 31:] = features.flip(0)[:, 31:]
    kept = slice(0, 29)
    torch.testing.assert_close(
        clean_foot_skate(other, short)[:, kept], clean_foot_skate(features, short)[:, kept], rtol=0, atol=1e-9
    )


def test_a_leg_with_a_heel_is_bent_at_the_knee() -> None:
    generator = torch.Generator().manual_seed(0)
    features = 0.1 * torch.randn(2, 12, KIT.features, generator=generator, dtype=torch.float64)
    before, after = (
        decode(features, KIT),
        decode(clean_foot_skate(features, torch.ones(2, 12, dtype=torch.bool), KIT), KIT),
    )
    torch.testing.assert_close(KIT.lengths(after)[..., [16, 17, 18, 19]], KIT.lengths(before)[..., [16, 17, 18, 19]])


def test_feet_are_planted_where_little_noise_is_left(clips: tuple[Tensor, Tensor], normal: Normal) -> None:
    features, exists = clips
    glide, schedule = normal.apply(gliding(features)), Flow()

    class Says:
        """A denoiser whose clip glides under any condition."""

        def __init__(self) -> None:
            self.schedule = schedule

        def bind(self, cond: Cond = Cond()) -> Bound:
            return Bound(schedule, lambda x, t: Estimate(glide.repeat(len(x) // len(glide), 1, 1)))

    null, condition = (Cond(vector=torch.full((24, 1), value), valid=exists) for value in (0.0, 1.0))
    bound = foot_skate_cleanup(lambda: normal, below=0.3)(Says(), null, 2.0).bind(condition)
    noisy, clean = (bound(glide, torch.tensor(t, dtype=torch.float64)) for t in (0.5, 0.1))
    torch.testing.assert_close(noisy, glide)
    torch.testing.assert_close(clean, normal.apply(clean_foot_skate(gliding(features), exists)))
