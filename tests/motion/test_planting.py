"""Feet that rest stay: true motions change little, a drift goes away where a foot rests, and only there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, Estimate
from core.schedule import Flow
from motion.features import Groups, Normal, decode
from motion.generator import Motions, normal_of
from motion.planting import Planted, planting
from motion.skeleton import HUMAN

VELOCITY, CONTACTS = Groups(22).slices()[1], Groups(22).slices()[-1]


@pytest.fixture(scope="module")
def normal() -> Normal:
    return normal_of()


@pytest.fixture(scope="module")
def clips(normal: Normal) -> Tensor:
    x: Tensor = Motions(12, normal).get(range(12))["x"]
    return x.double()


def drifting(x: Tensor, normal: Normal) -> Tensor:
    """Everybody glides forward by 10 cm a frame more than the legs go."""
    features = normal.undo(x)
    features[..., VELOCITY.start + 1] += 0.1
    return normal.apply(features)


def slides(x: Tensor, normal: Normal) -> tuple[Tensor, Tensor]:
    """How far each toe goes over the ground (B, T - 1, 2), and whether it alone rests there."""
    features = normal.undo(x)
    rests = features[:, :-1, CONTACTS][..., 1::2] > 0.5
    return decode(features)[:, :, list(HUMAN.feet[1::2])].diff(dim=1)[..., [0, 2]].norm(dim=-1), rests & (
        rests.sum(-1, keepdim=True) == 1
    )


def test_a_single_resting_foot_stays_where_it_is(normal: Normal, clips: Tensor) -> None:
    far, alone = slides(drifting(clips, normal), normal)
    assert int(alone.sum()) > 20 and float(far[alone].min()) > 0.03
    near, alone = slides(Planted(lambda: normal)(drifting(clips, normal)), normal)
    assert float(near[alone].max()) < 1e-6


def test_true_motions_stay_where_they_are(normal: Normal, clips: Tensor) -> None:
    planted = Planted(lambda: normal)(clips)
    moved = (decode(normal.undo(planted)) - decode(normal.undo(clips))).norm(dim=-1)
    assert float(moved.mean()) < 0.15
    features = normal.undo(clips)
    flies = ~(features[:, :-1, CONTACTS][..., 1::2] > 0.5).any(-1)
    torch.testing.assert_close(planted[:, :-1][flies], clips[:, :-1][flies], rtol=0, atol=1e-9)
    keep = [place for place in range(263) if not VELOCITY.start <= place < VELOCITY.stop]
    torch.testing.assert_close(planted[..., keep], clips[..., keep], rtol=0, atol=1e-9)


def test_feet_are_planted_where_little_noise_is_left(normal: Normal, clips: Tensor) -> None:
    glide, schedule = drifting(clips, normal), Flow()

    class Says:
        """A denoiser whose clip glides, whatever it is told."""

        def __init__(self) -> None:
            self.schedule = schedule

        def bind(self, cond: Cond = Cond()) -> Bound:
            return Bound(schedule, lambda x, t: Estimate(glide.repeat(len(x) // len(glide), 1, 1)))

    null, told = (Cond(vector=torch.full((12, 1), value)) for value in (0.0, 1.0))
    bound = planting(lambda: normal, below=0.3)(Says(), null, 2.0).bind(told)
    noisy, clean = (bound(glide, torch.tensor(t, dtype=torch.float64)) for t in (0.5, 0.1))
    torch.testing.assert_close(noisy, glide)
    torch.testing.assert_close(clean, Planted(lambda: normal)(glide))
