"""Deterministic samplers at the edges: exact on points, from pure noise, to clean data, on any shape and schedule."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, Estimate, change_schedule
from core.random import SamplingRNG
from core.sample.deterministic import DETERMINISTIC
from core.sample.solvers.adams import deis, lms
from core.sample.solvers.exponential import exponential_multistep
from core.sample.solvers.polynomial import exponential_moments, phi, weights
from core.sample.solvers.rungekutta import adaptive
from core.sample.solvers.unipc import bh1, bh2, unipc
from core.sample.step import run
from core.schedule import (
    EDM,
    VP,
    Discrete,
    Flow,
    Schedule,
    Trigonometric,
    cosine_betas,
    linear_betas,
    zero_terminal_snr,
)
from core.verify.mixture import Exact, Mixture
from core.verify.orders import counted, three_gaussians
from tests.support.schedules import CONTINUOUS

SCHEDULES: dict[str, Schedule] = {
    "linear table": Discrete(linear_betas()),
    "cosine table": Discrete(cosine_betas()),
    "zero terminal SNR": Discrete(zero_terminal_snr(linear_betas())),
    **CONTINUOUS,
}
FIXED = {name: info for name, info in DETERMINISTIC.items() if not info.adaptive}
SHAPES = [(3,), (2, 4), (1, 3, 3), (2, 1, 2, 2)]
NOISE = SamplingRNG(0, [0, 1])


def path(schedule: Schedule, steps: int, last: float = 0.0) -> Tensor:
    """Times from the noisiest, equally spaced in the angle atan(sigma / alpha) down to ``last``."""
    alpha, sigma = schedule(torch.tensor(schedule.noisiest, dtype=torch.float64))
    angles = torch.linspace(math.atan2(float(sigma), float(alpha)), last, steps + 1, dtype=torch.float64)
    times = schedule.time(angles.tan())
    return torch.cat([times.new_tensor([schedule.noisiest]), times[1:]])


def at(schedule: Schedule, t: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    alpha, sigma = schedule(t)
    return alpha * clean + sigma * noise


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_point_is_reached_exactly(name: str, label: str) -> None:
    schedule = SCHEDULES[label]
    for shape, steps in zip(SHAPES * 2, (1, 2, 5, 1, 5, 2, 1, 2)):
        generator = torch.Generator().manual_seed(steps)
        point = torch.randn(shape, generator=generator, dtype=torch.float64)
        noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        denoise = Mixture(point[None]).denoiser(schedule)
        for last in (0.0, 0.3):
            times = path(schedule, steps, last)
            start, expected = (at(schedule, t, point, noise) for t in (times[0], times[-1]))
            found = list(DETERMINISTIC[name].sampler(denoise, start, times, NOISE))
            torch.testing.assert_close(found[-1].x, expected, rtol=1e-12, atol=1e-12)
            assert found[-1].t == times[-1]


@pytest.mark.parametrize("name", FIXED)
def test_every_step_is_yielded_and_every_evaluation_is_claimed(name: str) -> None:
    info, steps = FIXED[name], 8
    start = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for schedule, first, last, edges in ((VP(), 5.0, 0.3, 0), (EDM(), 5.0, 0.0, 1), (Flow(), math.inf, 0.0, 2)):
        denoise, calls = counted(three_gaussians().denoiser(schedule))
        times = schedule.time(torch.linspace(math.atan(first), last, steps + 1, dtype=torch.float64).tan())
        times[0] = min(float(times[0]), schedule.noisiest)
        found = list(info.sampler(denoise, start, times, NOISE))
        assert [step.index for step in found] == list(range(steps))
        assert torch.equal(torch.stack([step.t for step in found]), times[1:])
        # A pseudo multistep method from pure noise starts later and has less to warm up.
        if edges == 2 and name in ("plms", "pndm"):
            assert steps <= len(calls) < info.count(steps, edges)
        else:
            assert len(calls) == info.count(steps, edges)


@pytest.mark.parametrize("label", [label for label in SCHEDULES if label != "trigonometric"])
@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name != "pndm"])
def test_a_change_of_schedule_changes_nothing(name: str, label: str) -> None:
    # pndm is left out: its warm-up looks at the middle in time, which is another place on another schedule.
    ratios = torch.linspace(3, -3, 10, dtype=torch.float64).exp()
    start = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def trajectory(denoise: Bound) -> Tensor:
        times = denoise.schedule.time(ratios)
        sizes = torch.hypot(*denoise.schedule(times))
        steps = list(DETERMINISTIC[name].sampler(denoise, sizes[0] * start, times, NOISE))
        return torch.stack([step.x / torch.hypot(*denoise.schedule(step.t)) for step in steps])

    inner = Exact(three_gaussians(), Trigonometric())
    moved = change_schedule(inner, SCHEDULES[label], Cond())
    torch.testing.assert_close(trajectory(moved), trajectory(inner.bind()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_repeated_times_and_single_precision_are_no_trouble(name: str) -> None:
    schedule = Flow()
    times = path(schedule, 12)
    repeated = torch.cat([times[:1], times[:1], times[1:4], times[3:6], times[5:]])
    start = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    denoise = three_gaussians().denoiser(schedule)
    exact = run(DETERMINISTIC[name].sampler(denoise, start.double(), times, NOISE))
    single = run(DETERMINISTIC[name].sampler(denoise, start, times, NOISE))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=3e-4 if name == "adaptive" else 2e-5)
    twice = run(DETERMINISTIC[name].sampler(denoise, start.double(), repeated, NOISE))
    # A repeated time makes UniPC ask again at the corrected x, which is another method of the same order.
    torch.testing.assert_close(twice, exact, rtol=0, atol=1e-3 if name.startswith("unipc") else 1e-10)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_times_that_do_not_move_leave_x_alone(name: str) -> None:
    times = torch.full((3,), 0.4, dtype=torch.float64)
    start = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = run(DETERMINISTIC[name].sampler(three_gaussians().denoiser(Flow()), start, times, NOISE))
    torch.testing.assert_close(end, start, rtol=1e-14, atol=1e-14)


def test_tighter_tolerances_take_more_evaluations_and_err_less() -> None:
    schedule, mixture = VP(), three_gaussians()
    start = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = path(schedule, 1, 0.05)
    truth = run(adaptive(mixture.denoiser(schedule), start, times, NOISE, rtol=1e-13, atol=1e-13))
    last_calls = 0
    for tolerance in (1e-3, 1e-5, 1e-7):
        denoise, calls = counted(mixture.denoiser(schedule))
        end = run(adaptive(denoise, start, times, NOISE, rtol=tolerance, atol=tolerance))
        assert (end - truth).abs().max() < 30 * tolerance
        assert len(calls) > last_calls
        last_calls = len(calls)


def test_adaptive_steps_end_even_where_the_denoiser_jumps() -> None:
    jumps = Bound(Flow(), lambda x, t: Estimate(torch.where(t > 0.5, 1.0, -1.0).expand_as(x)))
    steps = list(adaptive(jumps, torch.zeros(1, 1, dtype=torch.float64), path(Flow(), 1), NOISE))
    assert len(steps) < 200
    assert float(steps[-1].x) == -1


def test_phi_is_its_series_and_its_recurrence() -> None:
    for order in (1, 2, 3, 4):
        for z in (0.0, 1e-9, -1e-3, 0.999, -0.999, 1.001, -1.001, 3.0, -4.0):
            exact = sum(Fraction(z) ** j / math.factorial(j + order) for j in range(60))
            assert phi(order, z) == pytest.approx(float(exact), rel=2e-14)
        assert phi(order, -1e6) == pytest.approx(1e-6 / math.factorial(order - 1), rel=1e-5)


def test_weights_integrate_every_polynomial_they_can() -> None:
    places, z = [0.0, -0.7, -1.9, -2.1], -1.3
    found = weights(places, exponential_moments(z, 4))
    u = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    for power in range(4):
        integral = float(torch.trapezoid(((1 - u) * z).exp() * u**power, u))
        assert sum(w * place**power for w, place in zip(found, places)) == pytest.approx(integral, abs=1e-9)


def test_published_formulas_agree_where_they_are_the_same() -> None:
    schedule = VP()
    start = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoise, times = three_gaussians().denoiser(schedule), path(schedule, 9)
    ends = {
        name: run(sampler(denoise, start, times, NOISE))
        for name, sampler in {
            "euler": DETERMINISTIC["euler"].sampler,
            "2m": DETERMINISTIC["dpmpp_2m"].sampler,
            "deis 1": partial(deis, order=1),
            "lms 1": partial(lms, order=1),
            "exponential 1": partial(exponential_multistep, order=1),
            "unip 2, B = 1 - exp(-h)": partial(unipc, correct=False, size=bh2),
            "unip 2, B = h": partial(unipc, correct=False, size=bh1),
        }.items()
    }
    for first_order in ("deis 1", "lms 1", "exponential 1"):
        torch.testing.assert_close(ends[first_order], ends["euler"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ends["unip 2, B = 1 - exp(-h)"], ends["2m"], rtol=1e-12, atol=1e-12)
    assert (ends["unip 2, B = h"] - ends["2m"]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["heun", "dpm2", "plms", "pndm"])
def test_a_leap_out_of_high_noise_is_no_worse_than_euler(name: str) -> None:
    # Without care the slope at the end of the first step would be followed over 20,000 units of sigma / alpha.
    schedule = SCHEDULES["cosine table"]
    start = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoise, times = three_gaussians().denoiser(schedule), path(schedule, 6)
    truth = run(DETERMINISTIC["rk4"].sampler(denoise, start, path(schedule, 400), NOISE))
    errors = {
        label: (run(DETERMINISTIC[label].sampler(denoise, start, times, NOISE)) - truth).abs().max()
        for label in ("euler", name)
    }
    assert errors[name] < 0.6 * errors["euler"]


def test_lms_in_the_ratio_is_adams_bashforth_on_equal_steps() -> None:
    schedule = EDM()
    times = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    x = 5 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoise = three_gaussians().denoiser(schedule)
    found = run(lms(denoise, x, times, NOISE, start=None))
    slopes: list[Tensor] = []
    table = [[1.0], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
    for row, (here, there) in zip(table, pairwise(times)):
        slopes.insert(0, (x - denoise(x, here)) / here)
        x = x + (there - here) * sum(w * slope for w, slope in zip(row, slopes))
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)


def test_orders_that_do_not_exist_are_refused() -> None:
    denoise, x, times = three_gaussians().denoiser(Flow()), torch.zeros(1, 2), path(Flow(), 3)
    with pytest.raises(ValueError, match="order 1, 2, 3 or 4, not 5"):
        run(deis(denoise, x, times, NOISE, order=5))
    with pytest.raises(ValueError, match="order 1, 2 or 3, not 0"):
        run(unipc(denoise, x, times, NOISE, order=0))
