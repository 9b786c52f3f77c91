"""Denoiser: the network's inputs, the meaning of its output, and the same model on any path."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from core.cond import Cond
from core.denoiser import Denoiser, change_schedule, spread
from core.grid import linspace
from core.prediction import X0, Epsilon, F, FlowVelocity, LearnedRange, Prediction, Score, V
from core.random import SamplingRNG
from core.sample.ancestral import euler_ancestral
from core.sample.ddpm import ddpm
from core.sample.dpm import dpmpp_2m
from core.sample.euler import euler
from core.sample.heun import heun
from core.sample.solvers.ancestral import dpm2_ancestral
from core.sample.solvers.dpm import dpmpp_3m
from core.sample.solvers.unipc import unipc
from core.sample.step import Sampler
from core.schedule import (
    EDM,
    VE,
    VP,
    Discrete,
    Flow,
    Schedule,
    linear_betas,
    scaled_linear_betas,
    zero_terminal_snr,
)
from tests.support.schedules import CONTINUOUS

SCHEDULES: dict[str, Schedule] = {
    "linear": Discrete(linear_betas()),
    "zero-terminal": Discrete(zero_terminal_snr(scaled_linear_betas())),
    **CONTINUOUS,
}
PREDICTIONS: tuple[Prediction, ...] = (Epsilon(), X0(), V(), FlowVelocity(), Score(), F(), F(1.3), LearnedRange(V()))
SAMPLERS: tuple[Sampler, ...] = (euler, heun, dpmpp_2m, dpmpp_3m, unipc, ddpm, euler_ancestral, dpm2_ancestral)


class Recorder(nn.Module):
    """A network that records its inputs and returns what it was built with."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer
        self.seen: list[tuple[Tensor, Tensor, Cond]] = []

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        self.seen.append((x, time, cond))
        return self.answer(x)


class Wavy(nn.Module):
    """A nonlinear random estimate of x0: a two-layer tanh network of (x in unit scale, log of sigma / alpha)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(0.5 * torch.randn(7, 16, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(0.3 * torch.randn(16, 6, generator=generator, dtype=torch.float64))

    def forward(self, unit: Tensor, log_ratio: Tensor) -> Tensor:
        """unit (B, 6), log_ratio (B,) -> x0 (B, 6)."""
        features = torch.cat([unit, (log_ratio / 4).tanh()[:, None]], dim=1)
        return (features @ self.first).tanh() @ self.second


class InTermsOf(nn.Module):
    """A model of x0 that answers in the terms of a prediction on a schedule, and is fed as that prediction feeds it."""

    def __init__(self, model: nn.Module, schedule: Schedule, prediction: Prediction) -> None:
        super().__init__()
        self.model, self.schedule, self.prediction = model, schedule, prediction

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = (value[:, None] for value in self.schedule(time))
        inner = self.prediction.inner if isinstance(self.prediction, LearnedRange) else self.prediction
        x_t = x / self.prediction.scale(alpha, sigma)
        clean = self.model(x_t / torch.hypot(alpha, sigma), (sigma / alpha).log()[:, 0])
        # clean() is affine in the output: its value at 0 and its gain say which output means this x0.
        output = (clean - inner.clean(x_t, torch.zeros_like(x_t), alpha, sigma)) / inner.gain(alpha, sigma)
        return torch.cat([output, torch.zeros_like(output)], dim=1) if inner is not self.prediction else output


def test_network_gets_the_scaled_input_and_the_clocks_time() -> None:
    net = Recorder(lambda x: x)
    schedule, prediction = EDM(), F()
    denoiser = Denoiser(net, schedule, prediction, clock=lambda t: t.log() / 4)
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    cond = Cond(vector=torch.ones(3, 5))
    denoiser(x, torch.tensor(2.0, dtype=torch.float64), cond)
    scaled, time, seen = net.seen[0]
    torch.testing.assert_close(scaled, x / math.hypot(2.0, 0.5))
    torch.testing.assert_close(time, torch.full((3,), math.log(2.0) / 4))
    assert scaled.dtype == time.dtype == torch.float32 and seen is cond
    times = torch.tensor([0.1, 1.0, 7.0])
    denoiser(x, times, cond)
    torch.testing.assert_close(net.seen[1][1], times.log() / 4)
    torch.testing.assert_close(net.seen[1][0], x / (times**2 + 0.25).sqrt().view(3, 1, 1, 1))


def test_a_table_time_reaches_the_network_unrounded() -> None:
    net = Recorder(lambda x: x)
    Denoiser(net, Discrete(linear_betas()), Epsilon())(torch.zeros(1, 2), torch.tensor(417.625, dtype=torch.float64))
    assert net.seen[0][1].tolist() == [417.625]


def test_answer_is_read_as_the_prediction_says() -> None:
    generator = torch.Generator().manual_seed(0)
    x, output = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    for schedule in SCHEDULES.values():
        t = torch.full((4,), (schedule.cleanest + schedule.noisiest) / 2, dtype=torch.float64)
        alpha, sigma = schedule(t[0])
        for prediction in PREDICTIONS[:-1]:
            denoiser = Denoiser(Recorder(lambda x: output), schedule, prediction)
            expected = prediction.clean(x, output, alpha, sigma)
            for time in (t, t[0]):
                torch.testing.assert_close(denoiser(x, time), expected, rtol=1e-12, atol=1e-12)
                torch.testing.assert_close(denoiser.bind()(x, time), expected, rtol=1e-12, atol=1e-12)


def test_learned_variance_comes_with_the_estimate() -> None:
    denoiser = Denoiser(Recorder(lambda x: torch.cat([x, 0.5 * torch.ones_like(x)], 1)), VP(), LearnedRange(X0()))
    x = torch.ones(2, 3, 5)
    estimate = denoiser.bind().estimate(x, torch.tensor(0.5))
    assert torch.equal(estimate.clean, x) and estimate.mix is not None
    torch.testing.assert_close(estimate.mix, torch.full_like(x, 0.75))
    assert Denoiser(Recorder(lambda x: x), VP(), X0()).bind().estimate(x, torch.tensor(0.5)).mix is None


def test_estimates_keep_the_samples_precision_and_gradients() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.ones(2, 3, dtype=dtype, requires_grad=True)
        net = Recorder(lambda x: 0.5 * x)
        clean = Denoiser(net, VP(), Epsilon())(x, torch.tensor(0.3, dtype=torch.float64))
        assert clean.dtype == dtype
        assert net.seen[0][1].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        clean.sum().backward()
        alpha, sigma = (float(value) for value in VP()(torch.tensor(0.3, dtype=torch.float64)))
        assert x.grad is not None
        assert x.grad.flatten()[0].item() == pytest.approx((1 - 0.5 * sigma) / alpha, rel=1e-2)


def test_spread() -> None:
    x = torch.zeros(2, 3, 4)
    assert spread(torch.tensor(2.0, dtype=torch.float64), x).shape == ()
    assert spread(torch.tensor([1, 2]), x).shape == (2, 1, 1)
    assert spread(torch.tensor([1, 2]), x).dtype == torch.float32


def test_changing_the_schedule_is_exact_at_both_ends() -> None:
    """Pure noise of one path is pure noise of another, clean data is clean data."""
    inner = Denoiser(Recorder(lambda x: x.tanh()), Flow(), FlowVelocity())
    x = torch.linspace(-2, 2, 6, dtype=torch.float64).view(1, 6)
    for name in ("zero-terminal", "continuous cosine", "trigonometric", "flow shifted"):
        schedule = SCHEDULES[name]
        bound = change_schedule(inner, schedule, Cond())
        assert torch.equal(bound(x, torch.tensor(schedule.noisiest, dtype=torch.float64)), -x.tanh() + x)
        assert torch.equal(bound(x, schedule.time(torch.zeros((), dtype=torch.float64))), x)


def trajectory(schedule: Schedule, prediction: Prediction, path: Schedule, sampler: Sampler) -> Tensor:
    """One model, expressed by a prediction on a schedule, sampled on a path: every x on the way (steps, B, 6)."""
    denoiser = Denoiser(InTermsOf(Wavy(), schedule, prediction), schedule, prediction)
    bound = change_schedule(denoiser, path, Cond())
    times = path.time(torch.tensor([9.0, 4.0, 2.0, 0.9, 0.3, 0.1, 0.0], dtype=torch.float64))
    noise = SamplingRNG(seed=5, samples=range(3))
    alpha, sigma = path(times[0])
    start = noise.start((6,)) * torch.hypot(alpha, sigma)
    with torch.no_grad():
        return torch.stack([step.x for step in sampler(bound, start, times, noise)])


def test_one_model_in_every_prediction_and_schedule_gives_one_trajectory() -> None:
    """Every pair of (schedule, prediction) is the same model, so every sampler walks the same way to 1e-9."""
    for path, sampler in zip(itertools.cycle((VP(), Flow(), EDM())), SAMPLERS):
        expected = trajectory(path, X0(), path, sampler)
        assert bool(expected.isfinite().all()) and expected.std() > 0.05
        for (name, schedule), prediction in itertools.product(SCHEDULES.items(), PREDICTIONS):
            found = trajectory(schedule, prediction, path, sampler)
            error = float((found - expected).abs().max())
            assert error < 1e-9, (sampler, path, name, prediction, error)


def test_one_sampler_takes_the_same_steps_on_every_path() -> None:
    """x divided by its size hypot(alpha, sigma) does not depend on the path that is walked."""
    ratios = torch.tensor([4.0, 2.0, 0.9, 0.3, 0.1, 0.0], dtype=torch.float64)
    for sampler in SAMPLERS:
        walks = []
        for path in SCHEDULES.values():
            sizes = torch.hypot(*path(path.time(ratios)))
            walks.append(trajectory(VP(), Epsilon(), path, sampler) / sizes.view(-1, 1, 1))
        for walk in walks[1:]:
            torch.testing.assert_close(walk, walks[0], rtol=0, atol=1e-9)


def test_a_model_is_never_asked_beyond_its_noisiest_level() -> None:
    """A model that never saw pure noise reads it as its own noisiest level, at its own size."""
    for inner_schedule in (VP(), EDM(), VE(), SCHEDULES["linear"]):
        net = Recorder(lambda x: x.tanh())
        bound = change_schedule(Denoiser(net, inner_schedule, X0()), Flow(), Cond())
        x = torch.ones(1, 6, dtype=torch.float64)
        steps = list(euler(bound, x, linspace(bound.schedule, 4), SamplingRNG(0, [0])))
        scaled, time, _ = net.seen[0]
        assert time.item() == pytest.approx(inner_schedule.noisiest, rel=1e-9)
        size = torch.hypot(*inner_schedule(torch.tensor(inner_schedule.noisiest, dtype=torch.float64)))
        torch.testing.assert_close(scaled, x * size, rtol=1e-9, atol=0)
        assert steps[-1].t == 0 and bool(steps[-1].x.isfinite().all())
