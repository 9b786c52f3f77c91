"""Samples made of parts, by closed forms: each part is its own, overlaps blend, one part is plain sampling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, Estimate
from core.edit import Part, in_parts, ramp
from core.grid import trailing
from core.random import SamplingRNG
from core.sample.ancestral import euler_ancestral
from core.sample.dpm import dpmpp_2m
from core.sample.step import Sampler, run
from core.schedule import VP, Flow, Schedule


class Normal:
    """Data of mean ``cond.vector`` (B, 1) and variance 1/4 at every place, in closed form."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        assert cond.vector is not None
        mean = cond.vector[:, None]

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            alpha, sigma = self.schedule(t)
            return Estimate(mean + alpha / 4 / (alpha**2 / 4 + sigma**2) * (x - alpha * mean))

        return Bound(self.schedule, estimate)


def cond_of(mean: float) -> Cond:
    return Cond(vector=torch.full((4, 1), mean, dtype=torch.float64))


@pytest.mark.parametrize("schedule", [VP(), Flow()])
@pytest.mark.parametrize("sampler", [dpmpp_2m, euler_ancestral])
def test_a_part_that_is_all_is_plain_sampling(schedule: Schedule, sampler: Sampler) -> None:
    model, noise, times = Normal(schedule), SamplingRNG(0, range(4)), trailing(schedule, 8)
    x = noise.start((6, 2)).double()
    plain = run(sampler(model.bind(cond_of(3)), x, times, noise))
    one = in_parts(model, [Part(cond_of(3), torch.ones(1, 6, 1))])
    assert torch.equal(run(sampler(one, x, times, noise)), plain)
    # Under one condition, parts that overlap are one: the positions of this law are independent.
    halves = [Part(cond_of(3), ramp(4, 0, 2)[None, :, None]), Part(cond_of(3), ramp(4, 2, 0)[None, :, None], 2)]
    torch.testing.assert_close(run(sampler(in_parts(model, halves), x, times, noise)), plain)


def test_each_part_follows_its_condition_and_overlaps_lie_between() -> None:
    model, times, noise = Normal(Flow()), trailing(Flow(), 20), SamplingRNG(0, range(4))
    parts = [Part(cond_of(-4), ramp(8, 0, 4)[None, :, None]), Part(cond_of(4), ramp(8, 4, 0)[None, :, None], 4)]
    found = run(dpmpp_2m(in_parts(model, parts), noise.start((12, 50)).double(), times, noise)).mean((0, 2))
    expected = torch.tensor([-4.0] * 4 + [-2.4, -0.8, 0.8, 2.4] + [4.0] * 4, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=0.2, rtol=0)


def test_parts_may_be_features_in_place_of_places() -> None:
    model, times, noise = Normal(Flow()), trailing(Flow(), 20), SamplingRNG(0, range(4))
    left = torch.tensor([1.0, 0.0])[None, None].expand(1, 30, 2)
    parts = [Part(cond_of(-4), left), Part(cond_of(4), 1 - left)]
    found = run(dpmpp_2m(in_parts(model, parts), noise.start((30, 2)).double(), times, noise)).mean((0, 1))
    torch.testing.assert_close(found, torch.tensor([-4.0, 4.0]).double(), atol=0.2, rtol=0)


class Wide:
    """Data of mean ``cond.vector[:, 0]`` and variance ``cond.vector[:, 1]`` at every place, in closed form."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        assert cond.vector is not None
        mean, variance = (value[:, None, None] for value in cond.vector.T)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            alpha, sigma = self.schedule(t)
            gain = alpha * variance / (alpha**2 * variance + sigma**2)
            return Estimate(mean + gain * (x - alpha * mean))

        return Bound(self.schedule, estimate)


def law(mean: float, variance: float) -> Cond:
    return Cond(vector=torch.tensor([[mean, variance]], dtype=torch.float64).expand(4, 2))


@pytest.mark.parametrize("schedule", [VP(), Flow()])
def test_the_correction_is_the_slope_of_how_far_noises_are_apart(schedule: Schedule) -> None:
    """eps = sigma (x - alpha m) / (alpha^2 v + sigma^2), whose differences and slopes are closed forms."""
    model, x = Wide(schedule), SamplingRNG(0, range(4)).start((6, 2)).double()
    laws = [(3.0, 1.0), (-1.0, 0.2), (0.5, 2.0)]
    parts = [Part(law(*each), torch.full((1, 6, 1), weight)) for each, weight in zip(laws, (1.0, 2.0, 3.0))]
    t = torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma = schedule(t)
    slopes = [sigma / (alpha**2 * variance + sigma**2) for _, variance in laws]
    noises = [slope * (x - alpha * mean) for slope, (mean, _) in zip(slopes, laws)]
    blended = (noises[0] + 2 * noises[1] + 3 * noises[2]) / 6
    pull = sum(2 * (noises[i] - noises[j]) * (slopes[i] - slopes[j]) for i in range(3) for j in range(3) if i != j)
    expected = (x - sigma * (blended + 0.05 * pull)) / alpha
    with torch.no_grad():
        found = in_parts(model, parts, 0.05)(x, t)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


def test_the_correction_is_of_overlaps_only_and_makes_parts_agree() -> None:
    model, x = Wide(Flow()), SamplingRNG(0, range(4)).start((10, 2)).double()
    parts = [Part(law(-1, 1), ramp(6, 0, 2)[None, :, None]), Part(law(1, 0.25), ramp(6, 2, 0)[None, :, None], 4)]
    t = torch.tensor(0.5, dtype=torch.float64)
    plain, pulled = in_parts(model, parts)(x, t), in_parts(model, parts, 0.1)(x, t)
    changed = (plain - pulled).abs().amax((0, 2)) > 1e-12
    assert changed.tolist() == [False] * 4 + [True] * 2 + [False] * 4
    # Towards where both say the same: the noises of these laws, x + 0.5 and 1.6 x - 0.8, cross at x = 13 / 6.
    noisy = torch.full((4, 10, 2), 4.0, dtype=torch.float64)
    assert bool((in_parts(model, parts, 0.1)(noisy, t) < in_parts(model, parts)(noisy, t))[:, 4:6].all())
    apart = [Part(law(-1, 1), torch.ones(1, 5, 1)), Part(law(1, 2), torch.ones(1, 5, 1), 5)]
    assert torch.equal(in_parts(model, apart, 0.1)(x, t), in_parts(model, apart)(x, t))
    with pytest.raises(ValueError, match="not negative"):
        in_parts(model, parts, -1)


@pytest.mark.parametrize("schedule", [VP(), Flow()])
def test_the_correction_is_finite_over_a_whole_walk(schedule: Schedule) -> None:
    model, times, noise = Wide(schedule), trailing(schedule, 8), SamplingRNG(0, range(4))
    parts = [Part(law(-1, 1), torch.ones(1, 6, 1)), Part(law(1, 0.25), torch.ones(1, 6, 1))]
    x = noise.start((6, 2)).double()
    plain, pulled = (run(dpmpp_2m(in_parts(model, parts, pull), x, times, noise)) for pull in (0.0, 0.1))
    assert bool(pulled.isfinite().all()) and not torch.allclose(plain, pulled)


def test_ramps_add_up_to_one() -> None:
    assert ramp(5, 2, 2).tolist() == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    torch.testing.assert_close(ramp(9, 0, 6)[3:] + ramp(7, 6, 0)[:6], torch.ones(6))
    with pytest.raises(ValueError, match="do not fit"):
        ramp(5, 3, 3)


def test_what_does_not_fit_is_refused() -> None:
    model, x, t = Normal(Flow()), torch.zeros(4, 6, 1).double(), torch.tensor(0.5).double()
    with pytest.raises(ValueError, match="no part says anything"):
        in_parts(model, [Part(cond_of(0), torch.ones(1, 5, 1))])(x, t)
    with pytest.raises(ValueError, match="ends at place 7"):
        in_parts(model, [Part(cond_of(0), torch.ones(1, 6, 1), 1)])(x, t)
