"""What the filter takes away is a closed form of how fast it is; lines, contacts and padding are left alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, Estimate
from core.guidance import Guided
from core.schedule import Flow
from motion.smoothing import TemporalSmoothing, local_linear_fit, temporal_smoothing


class Model:
    """Whose x0 is x."""

    schedule = Flow()

    def bind(self, cond: Cond = Cond()) -> Bound:
        return Bound(self.schedule, lambda x, t: Estimate(x))


def filtered(x: Tensor, deviation: float, cond: Cond = Cond()) -> Tensor:
    return TemporalSmoothing(Model(), deviation).bind(cond)(x, torch.tensor(0.1).double())


@pytest.mark.parametrize("deviation", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("hertz", [0.5, 1.5, 5.0, 9.0])
def test_what_is_left_of_a_frequency(deviation: float, hertz: float) -> None:
    angle = 2 * math.pi * hertz / 20
    places = torch.arange(120, dtype=torch.float64)
    x = torch.stack([torch.cos(angle * places), torch.sin(angle * places)], dim=-1)[None]
    found = filtered(torch.cat([x, torch.zeros(1, 120, 4)], dim=-1), deviation)[..., :2]
    # Weights at whole frames add up to a Gaussian's transform, but for its images: with s = 0.7 those are seen.
    reach = torch.arange(-40, 41, dtype=torch.float64)
    weights = torch.exp(-0.5 * (reach / deviation) ** 2)
    gain = float((weights * torch.cos(angle * reach)).sum() / weights.sum())
    torch.testing.assert_close(found[:, 30:-30], (2 * gain - gain**2) * x[:, 30:-30], rtol=0, atol=1e-9)
    if deviation >= 1 and hertz < 9:
        assert gain == pytest.approx(math.exp(-((angle * deviation) ** 2) / 2), abs=0.01)


def test_straight_lines_and_contacts_stay() -> None:
    places = torch.arange(50, dtype=torch.float64)
    x = torch.stack([2 * places - 3, -places, *torch.randn(4, 50, generator=torch.Generator().manual_seed(0))], dim=-1)
    torch.testing.assert_close(filtered(x[None], 1.5)[0], x, rtol=0, atol=1e-9)


def test_frames_that_do_not_exist_neither_change_nor_matter() -> None:
    x = torch.randn(2, 30, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 30, dtype=torch.bool)
    valid[1, 20:] = False
    found = filtered(x, 1.5, Cond(valid=valid))
    assert torch.equal(found[1, 20:], x[1, 20:])
    torch.testing.assert_close(found[1:, :20], filtered(x[1:, :20], 1.5))
    torch.testing.assert_close(found[:1], filtered(x[:1], 1.5))
    valid[1, 1:] = False
    assert torch.equal(filtered(x, 1.5, Cond(valid=valid))[1], x[1])


def test_noise_shrinks_also_at_the_ends() -> None:
    twice = 2 * local_linear_fit(torch.ones(1, 60), 1.0) - local_linear_fit(torch.ones(1, 60), 1.0) @ local_linear_fit(
        torch.ones(1, 60), 1.0
    )
    left = twice[0].square().sum(-1)  # the variance that is left of white noise
    assert bool((left <= 1).all()) and float(left[30]) < 0.5
    rough = torch.zeros(60)
    rough[::2] = 1
    bend = (twice[0] @ rough).diff(n=2).abs()
    assert float(bend[10:50].max()) < 0.1 and float(bend.max()) < 2 and float(rough.diff(n=2).abs().min()) == 2


def test_only_where_little_noise_is_left() -> None:
    x = torch.randn(2, 30, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bound = temporal_smoothing(0.3)(Model(), Cond(), 2.0).bind(Cond())
    plain = Guided(Model(), Cond(), 2.0).bind(Cond())
    for t, same in ((0.5, True), (0.3, True), (0.2, False), (0.05, False)):
        time = torch.tensor(t, dtype=torch.float64)
        assert torch.equal(bound(x, time), plain(x, time)) == same
    with pytest.raises(ValueError, match="positive number of frames"):
        TemporalSmoothing(Model(), 0)
