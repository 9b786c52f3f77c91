"""Stochastic samplers keep their word: weak order, mean and covariance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from core.denoiser import Bound
from core.random import SamplingRNG
from core.sample import STOCHASTIC, NoiseSource, Step
from core.sample.info import SamplerInfo
from core.sample.solvers.predictor_corrector import predictor_corrector
from core.schedule import EDM, VP, Flow
from core.verify.weak_orders import WeakRow, drawn_moments, gaussian, moments, times_of, weak_error, weak_markdown

SCHEDULES = {"VP": VP(), "EDM": EDM(), "flow": Flow()}
CONVERGENT = [name for name, info in STOCHASTIC.items() if info.order]


@pytest.mark.parametrize("name", CONVERGENT)
def test_weak_order_is_the_claimed_one(name: str) -> None:
    info = STOCHASTIC[name]
    for label, schedule in SCHEDULES.items():
        errors = [weak_error(info, schedule, steps) for steps in (128, 256)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(info.order, abs=0.2), label
        assert errors[1] < 0.04


@pytest.mark.parametrize("name", CONVERGENT)
def test_moments_of_a_mixture_within_four_standard_errors(name: str) -> None:
    mean, covariance = drawn_moments(STOCHASTIC[name], VP(), steps=150, count=4000)
    assert mean < 4
    assert covariance < 4


def test_without_its_corrector_the_published_sampler_is_right() -> None:
    """The bias is the corrector's: its predictor alone has order 1 and the mixture's moments."""
    alone = SamplerInfo(partial(predictor_corrector, corrections=0), order=1, evaluations=1, stochastic=True)
    errors = [weak_error(alone, VP(), steps) for steps in (128, 256)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.2)
    assert max(drawn_moments(alone, VP(), steps=300, count=8000)) < 4


def test_what_claims_no_order_has_none() -> None:
    """Consistency sampling does not approach the data's covariance however many steps it takes."""
    errors = [weak_error(STOCHASTIC["consistency"], EDM(), steps) for steps in (64, 256)]
    assert errors[1] > 0.1 and errors[1] > 0.8 * errors[0]


def test_propagated_moments_are_those_of_many_samples() -> None:
    """The exact propagation is checked by drawing."""
    schedule, data, steps = VP(), gaussian(), 12
    info = STOCHASTIC["ddpm"]
    mean, variance = moments(info, schedule, steps, data)
    times = times_of(schedule, steps)
    alpha, sigma = schedule(times[0])
    start = data.sample(4000, seed=1, alpha=float(alpha), sigma=float(sigma))
    x = torch.stack(
        [step.x for step in info.sampler(data.denoiser(schedule), start, times, SamplingRNG(0, range(4000)))]
    )[-1]
    assert ((x.mean(0) - mean).abs() < 4 * (variance / 4000).sqrt()).all()
    assert ((x.var(0) - variance).abs() < 4 * variance * (2 / 4000) ** 0.5).all()


def test_wrong_noise_would_be_seen() -> None:
    """A sampler that adds a tenth too little noise loses its order."""

    class Quiet:
        def __init__(self, noise: NoiseSource) -> None:
            self.noise = noise

        def normal(self, like: Tensor, step: int, part: int = 0) -> Tensor:
            return 0.9 * self.noise.normal(like, step, part)

        def brownian(self, like: Tensor, start: float, stop: float) -> Tensor:
            return 0.9 * self.noise.brownian(like, start, stop)

    def timid(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
        return STOCHASTIC["ddpm"].sampler(denoise, x, times, Quiet(noise))

    errors = [weak_error(SamplerInfo(timid, 1, 1, stochastic=True), VP(), steps) for steps in (256, 512)]
    assert abs(math.log2(errors[0] / errors[1]) - 1) > 0.2


def test_page_has_a_line_for_each_sampler() -> None:
    rows = [WeakRow("ddpm", "VP", 1, 0.99, 1, 1.2, 2.3), WeakRow("consistency", "VP", 0, math.nan, 1, 9.0, 99.0)]
    page = weak_markdown(rows)
    assert "| ddpm | 1 | 1 | 0.99 | 1.2 | 2.3 |" in page
    assert "| consistency | none | 1 | none | 9.0 | 99.0 |" in page
