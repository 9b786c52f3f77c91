"""Geometric losses by closed forms: what moves how far costs how much."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Denoiser
from core.objective import Objective
from core.prediction import X0
from core.random import Stream, TrainingRNG
from core.schedule import Cosine
from motion.features import Groups, Normal, encode
from motion.generator import poses as drawn
from motion.objectives import GeometricLoss, masked_mean
from motion.skeleton import HUMAN

TURN, VELOCITY, HEIGHT, POSITIONS, _, _, CONTACTS = Groups(22).slices()


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, Tensor, Normal]:
    """Two normalised clips (2, 120, 263) in double precision, and which frames count."""
    joints, valid, _ = drawn(0, [0, 1])
    features = encode(joints)
    normal = Normal.of(features.flatten(0, 1), 22)
    return normal.apply(features), valid, normal


def moved(x: Tensor, normal: Normal, part: slice, by: Tensor) -> Tensor:
    """The clip with metres added to a part of its features."""
    features = normal.undo(x)
    return normal.apply(
        torch.cat([features[..., : part.start], features[..., part] + by, features[..., part.stop :]], -1)
    )


def test_the_truth_costs_its_own_sliding_only(clips: tuple[Tensor, Tensor, Normal]) -> None:
    x, valid, normal = clips
    assert GeometricLoss(lambda: normal, contacts=0)(x, x, valid).tolist() == pytest.approx([0, 0], abs=1e-12)
    # Feet at rest move by less than the threshold of contact a frame, squared.
    assert 0 <= float(GeometricLoss(lambda: normal, 0, 0, 1)(x, x, valid).max()) < HUMAN.still


def test_a_body_that_is_higher_costs_the_square_of_it(clips: tuple[Tensor, Tensor, Normal]) -> None:
    x, valid, normal = clips
    high = torch.zeros(63).view(21, 3)
    high[:, 1] = 0.2
    lifted = moved(x, normal, POSITIONS, high.flatten())
    # 21 of 22 joints along one of three axes.
    assert GeometricLoss(lambda: normal, 3, 0, 0)(lifted, x, valid).tolist() == pytest.approx(
        [3 * 0.04 / 3 * 21 / 22] * 2, rel=1e-4
    )
    assert GeometricLoss(lambda: normal, 3, 0, 0, local=True)(lifted, x, valid).tolist() == pytest.approx(
        [0.04] * 2, rel=1e-4
    )
    # Nothing moves in another way.
    assert GeometricLoss(lambda: normal, 0, 1, 0)(lifted, x, valid).tolist() == pytest.approx([0, 0], abs=1e-9)


def test_a_body_that_drifts_costs_its_speed_and_slides_its_feet(clips: tuple[Tensor, Tensor, Normal]) -> None:
    x, valid, normal = clips
    drift = moved(x, normal, VELOCITY, torch.tensor([0.3, 0.0]))  # metres a frame
    frames = valid.sum(1)
    # All joints go 0.3 m further each frame, whichever way they face.
    assert GeometricLoss(lambda: normal, 0, 1, 0)(drift, x, valid).tolist() == pytest.approx([0.09 / 3] * 2, rel=1e-4)
    assert GeometricLoss(lambda: normal, 0, 1, 0, local=True)(drift, x, valid).tolist() == pytest.approx(
        [0, 0], abs=1e-9
    )
    rests = (normal.undo(x)[..., CONTACTS] > 0.5)[:, :-1] & (valid[:, 1:] & valid[:, :-1])[..., None]
    share = rests.double().mean(-1).sum(1) / (frames - 1)
    expected = 0.09 / 3 * share
    torch.testing.assert_close(GeometricLoss(lambda: normal, 0, 0, 1)(drift, x, valid), expected, rtol=0.1, atol=2e-4)


def test_frames_that_do_not_exist_cost_nothing(clips: tuple[Tensor, Tensor, Normal]) -> None:
    x, valid, normal = clips
    noisy = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    other = torch.where(valid[..., None], noisy, 5.0)
    torch.testing.assert_close(
        GeometricLoss(lambda: normal)(noisy, x, valid), GeometricLoss(lambda: normal)(other, x, valid)
    )
    each = masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    assert each.tolist() == [2]
    with pytest.raises(ValueError, match="negative"):
        GeometricLoss(lambda: normal, -1)


class Echo(torch.nn.Module):
    """A network whose x0 is a learned multiple of what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.share = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        return self.share * x


def test_the_core_objective_takes_it_with_its_own(clips: tuple[Tensor, Tensor, Normal]) -> None:
    x, valid, normal = clips
    geometry, net, rng = GeometricLoss(lambda: normal), Echo(), TrainingRNG(0, range(2))
    denoiser = Denoiser(net, Cosine(), X0())
    net.share.data.fill_(0.9)
    plain = Objective()(denoiser, x, Cond(valid=valid), rng)
    both = Objective(auxiliary_loss=geometry)(denoiser, x, Cond(valid=valid), rng)
    alpha, sigma = (value[:, None, None] for value in denoiser.schedule(plain.t))
    output = 0.9 * (alpha * x + sigma * rng.normal(x, Stream.NOISE))
    torch.testing.assert_close(both.mean - plain.mean, geometry(output, x, valid).mean(), rtol=1e-6, atol=1e-9)
    both.mean.backward()
    assert net.share.grad is not None and net.share.grad != 0
