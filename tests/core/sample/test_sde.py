"""SDE samplers against the formulas they are known by, and against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from core.denoiser import Bound, Estimate
from core.random import SamplingRNG
from core.sample import STOCHASTIC, NoiseSource, Sampler, run
from core.sample.solvers.consistency import consistency
from core.sample.solvers.predictor_corrector import each, euler_maruyama, predictor_corrector, reverse_diffusion
from core.sample.solvers.sa_solver import constant, sa_solver
from core.sample.solvers.sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde, exact_slope, midpoint_slope
from core.schedule import EDM, VE, VP, Discrete, Flow, Schedule, linear_betas
from core.verify.weak_orders import Path

SIGMAS = [7.0, 3.1, 1.7, 0.6, 0.25]
ETA = 0.7


class Drawn:
    """The same normals whichever way they are asked for; ``asked`` counts them."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.asked = 0

    def normal(self, like: Tensor, step: int, part: int = 0) -> Tensor:
        self.asked += 1
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)

    def brownian(self, like: Tensor, start: float, stop: float) -> Tensor:
        return self.normal(like, 0)


def bent(x: Tensor, t: Tensor) -> Estimate:
    """A smooth denoiser that is no Gaussian's."""
    return Estimate(torch.tanh(x / (1 + t)) + 0.3 * torch.sin(t) * x)


def start() -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def walked(sampler: Sampler, noise: NoiseSource) -> Tensor:
    return run(sampler(Bound(EDM(), bent), start(), torch.tensor(SIGMAS, dtype=torch.float64), noise))


def k_diffusion(order: int, slope: Callable[[float], float]) -> Tensor:
    """2M and 3M SDE as k-diffusion writes them: alpha = 1, t = -log sigma, phi_2 and phi_3 of h (1 + eta)."""
    x, noise = start(), Drawn()
    estimates: list[Tensor] = []
    widths: list[float] = []
    for here, there in pairwise(SIGMAS):
        estimates.insert(0, bent(x, torch.tensor(here, dtype=torch.float64)).clean)
        h = math.log(here / there)
        rate = h * (1 + ETA)
        x = math.exp(-rate) * x - math.expm1(-rate) * estimates[0]
        phi_2 = math.expm1(-rate) / rate + 1
        phi_3 = phi_2 / rate - 0.5
        near = (estimates[0] - estimates[1]) * h / widths[0] if widths else torch.zeros_like(x)
        if order == 3 and len(widths) > 1:
            r0, r1 = widths[0] / h, widths[1] / h
            far = (estimates[1] - estimates[2]) / r1
            x = x + phi_2 * (near + (near - far) * r0 / (r0 + r1)) - phi_3 * (near - far) / (r0 + r1)
        else:
            x = x + slope(rate) * near
        x = x + there * math.sqrt(-math.expm1(-2 * ETA * h)) * noise.normal(x, 0)
        widths.insert(0, h)
    return x


def test_multistep_sdes_are_k_diffusions() -> None:
    def midpoint(rate: float) -> float:
        return -math.expm1(-rate) / 2

    def heun(rate: float) -> float:
        return math.expm1(-rate) / rate + 1

    for ours, theirs in (
        (partial(dpmpp_2m_sde, eta=ETA, slope=midpoint_slope), k_diffusion(2, midpoint)),
        (partial(dpmpp_2m_sde, eta=ETA, slope=exact_slope), k_diffusion(2, heun)),
        (partial(dpmpp_3m_sde, eta=ETA, curvature=0.5), k_diffusion(3, heun)),
    ):
        torch.testing.assert_close(walked(ours, Drawn()), theirs, rtol=0, atol=1e-11)
    exact = walked(partial(dpmpp_3m_sde, eta=ETA), Drawn())
    assert (exact - k_diffusion(3, heun)).abs().max() > 1e-3


def test_two_stage_sde_is_k_diffusions() -> None:
    def step(x: Tensor, clean: Tensor, here: float, there: float, unit: Tensor) -> Tensor:
        up = min(there, ETA * math.sqrt(there**2 * (here**2 - there**2) / here**2))
        down = math.sqrt(there**2 - up**2)
        return down / here * x - math.expm1(math.log(down / here)) * clean + up * unit

    x, noise = start(), Drawn()
    for here, there in pairwise(SIGMAS):
        middle = math.sqrt(here * there)
        clean = bent(x, torch.tensor(here, dtype=torch.float64)).clean
        halfway = step(x, clean, here, middle, noise.normal(x, 0))
        inner = bent(halfway, torch.tensor(middle, dtype=torch.float64)).clean
        x = step(x, inner, here, there, noise.normal(x, 0))
    torch.testing.assert_close(walked(partial(dpmpp_sde, eta=ETA), Drawn()), x, rtol=0, atol=1e-11)


def test_sa_predictor_of_constant_tau_is_the_multistep_sde() -> None:
    for order, partner in (
        (2, partial(dpmpp_2m_sde, eta=ETA, slope=exact_slope)),
        (3, partial(dpmpp_3m_sde, eta=ETA)),
    ):
        sampler = partial(sa_solver, tau=constant(math.sqrt(ETA)), predictor=order, corrector=0)
        torch.testing.assert_close(walked(sampler, Drawn()), walked(partner, Drawn()), rtol=0, atol=1e-12)


def test_sa_corrector_lowers_the_error_and_reevaluation_costs_a_call() -> None:
    calls: list[float] = []

    def counted(x: Tensor, t: Tensor) -> Estimate:
        calls.append(float(t))
        return bent(x, t)

    def end(steps: int, corrector: int, reevaluate: bool = False) -> Tensor:
        calls.clear()
        times = torch.logspace(0.5, -0.5, steps + 1, dtype=torch.float64)
        sampler = sa_solver(
            Bound(EDM(), counted), start(), times, Drawn(), tau=constant(0.0), predictor=2,
            corrector=corrector, reevaluate=reevaluate,
        )  # fmt: skip
        return run(sampler)

    truth = end(2000, 3)
    plain, corrected = ((end(16, corrector) - truth).abs().max() for corrector in (0, 3))
    assert corrected < 0.5 * plain
    assert len(calls) == 16
    end(16, 3, reevaluate=True)
    assert len(calls) == 16 + 15


def test_reverse_diffusion_and_langevin_are_the_papers_on_a_ddpm_table() -> None:
    """2011.13456, equation 46 and algorithm 5, in betas; corrector first, then predictor."""
    table, t, snr = Discrete(linear_betas()), 600, 0.16
    beta = 1 - table.alpha_bar[t].item() / table.alpha_bar[t - 1].item()
    sigma_squared = 1 - table.alpha_bar[t].item()

    def score(x: Tensor) -> Tensor:
        clean = bent(x, torch.tensor(float(t), dtype=torch.float64)).clean
        return (table.alpha_bar[t].sqrt() * clean - x) / sigma_squared

    x, noise = start(), Drawn()
    unit, s = noise.normal(x, 0), score(x)
    size = (2 * (1 - beta) * (snr * each(unit) / each(s)) ** 2)[:, None]
    x = x + size * s + (2 * size).sqrt() * unit
    x = (2 - math.sqrt(1 - beta)) * x + beta * score(x) + math.sqrt(beta) * noise.normal(x, 0)
    times = torch.tensor([t, t - 1], dtype=torch.float64)
    ours = run(predictor_corrector(Bound(table, bent), start(), times, Drawn(), snr=snr))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-10)


def test_euler_maruyama_tends_to_the_sdes_own_coefficients() -> None:
    """On VP: x + beta x dt / 2 + beta score dt + sqrt(beta dt) z (2011.13456, equation 33), up to dt^2."""
    vp, t = VP(), torch.tensor(0.5, dtype=torch.float64)
    beta = 0.1 + 0.5 * 19.9
    for dt in (1e-3, 1e-5):
        x, unit = start(), Drawn().normal(start(), 0)
        alpha, sigma = vp(t)
        score = (alpha * bent(x, t).clean - x) / sigma**2
        expected = x + beta * dt * (x / 2 + score) + math.sqrt(beta * dt) * unit
        ours = run(euler_maruyama(Bound(vp, bent), start(), torch.stack([t, t - dt]), Drawn()))
        torch.testing.assert_close(ours, expected, rtol=0, atol=60 * dt**1.5)
    ours = run(reverse_diffusion(Bound(vp, bent), start(), torch.stack([t, t - dt]), Drawn()))
    torch.testing.assert_close(ours, expected, rtol=0, atol=60 * dt**1.5)


@pytest.mark.parametrize("schedule", [VP(), VE(), EDM(), Flow()], ids=["VP", "VE", "EDM", "flow"])
def test_consistency_sampling_of_a_consistency_function_has_the_right_law(schedule: Schedule) -> None:
    """For N(m, s^2) the flow's end is m + s (x - alpha m) / hypot(alpha s, sigma): every step's x0 is a sample."""
    mean, deviation, count = 0.4, 0.3, 20_000

    def end_of_flow(x: Tensor, t: Tensor) -> Estimate:
        alpha, sigma = schedule(t)
        return Estimate(mean + deviation * (x - alpha * mean) / torch.hypot(alpha * deviation, sigma))

    times = schedule.time(torch.tensor([20.0, 3.0, 0.8, 0.0], dtype=torch.float64))
    alpha, sigma = schedule(times[0])
    noise = SamplingRNG(1, range(count))
    x = alpha * mean + torch.hypot(alpha * deviation, sigma) * noise.start((1,))
    for step in consistency(Bound(schedule, end_of_flow), x, times, noise):
        assert abs(step.clean.mean().item() - mean) < 4 * deviation / math.sqrt(count)
        assert abs(step.clean.var().item() - deviation**2) < 4 * deviation**2 * math.sqrt(2 / count)
    assert torch.equal(step.x, step.clean)


def test_consistency_floor_is_the_published_noise() -> None:
    times = torch.tensor([2.0, 0.5], dtype=torch.float64)
    ours = run(consistency(Bound(EDM(), bent), start(), times, Drawn(), floor=0.002))
    clean = bent(start(), times[0]).clean
    expected = clean + math.sqrt(0.5**2 - 0.002**2) * Drawn().normal(clean, 0)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_sample_is_the_same_bits_in_any_batch(name: str) -> None:
    """Where the denoiser treats rows alike to the last bit, so does the sampler."""
    schedule, times = EDM(), torch.tensor([*SIGMAS, 0.0], dtype=torch.float64)

    def rowwise(x: Tensor, t: Tensor) -> Estimate:
        return Estimate(0.5 * x / (1 + t) + 0.1)

    def drawn(samples: list[int]) -> Tensor:
        noise = SamplingRNG(7, samples)
        return run(STOCHASTIC[name].sampler(Bound(schedule, rowwise), noise.start((2,)) * 7, times, noise))

    assert torch.equal(drawn([3, 1]), drawn([0, 1, 2, 3, 4])[[3, 1]])


def test_forward_path_has_the_covariance_of_a_brownian_one() -> None:
    """Overlapping increments correlate as sqrt(shorter / longer); successive ones do not."""
    noise, like = Drawn(), torch.zeros(200_000, dtype=torch.float64)
    path = Path(lambda like: noise.normal(like, 0))
    first, half, whole = (path.increment(like, a, b) for a, b in ((0.9, 0.6), (0.6, 0.4), (0.6, 0.1)))
    for increment in (first, half, whole):
        assert increment.var().item() == pytest.approx(1, abs=0.015)
    assert (half * whole).mean().item() == pytest.approx(math.sqrt(0.2 / 0.5), abs=0.01)
    assert (first * whole).mean().item() == pytest.approx(0, abs=0.01)
    assert noise.asked == 3
    again = SamplingRNG(0, range(4000))
    like = torch.zeros(4000, 1, dtype=torch.float64)
    tree = (again.brownian(like, 0.6, 0.4) * again.brownian(like, 0.6, 0.1)).mean().item()
    assert tree == pytest.approx(math.sqrt(0.2 / 0.5), abs=0.08)
