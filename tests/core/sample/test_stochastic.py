"""Laws of the stochastic samplers: their deterministic limits, exact points, samples that do not mix."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from core.denoiser import Bound, Estimate
from core.grid import karras, trailing
from core.random import SamplingRNG
from core.sample import STOCHASTIC, run
from core.sample.ancestral import euler_ancestral
from core.sample.ddim import ddim
from core.sample.ddpm import ddpm, large, learned, small
from core.sample.dpm import dpmpp_2m
from core.sample.euler import euler
from core.sample.heun import dpm2, heun
from core.sample.renoise import flow_rule
from core.sample.solvers.ancestral import dpm2_ancestral, dpmpp_2s_ancestral
from core.sample.solvers.dpm import dpmpp_2s
from core.sample.solvers.edm import edm
from core.sample.solvers.er_sde import er_sde, ode
from core.sample.solvers.exponential import exponential_multistep
from core.sample.solvers.predictor_corrector import predictor_corrector
from core.sample.solvers.restart import RestartInterval, restart
from core.sample.solvers.sa_solver import constant, sa_solver
from core.sample.solvers.sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde, exact_slope
from core.sample.step import Sampler
from core.schedule import EDM, VE, VP, Discrete, Flow, Schedule, linear_betas, scaled_linear_betas, zero_terminal_snr
from core.verify.mixture import Mixture
from core.verify.orders import three_gaussians

SCHEDULES: dict[str, Schedule] = {
    "VP": VP(),
    "VE": VE(),
    "EDM": EDM(),
    "flow": Flow(),
    "table": Discrete(linear_betas()),
    "zero terminal SNR": Discrete(zero_terminal_snr(scaled_linear_betas())),
}


def walk(sampler: Sampler, schedule: Schedule, steps: int = 8, count: int = 5) -> Tensor:
    noise = SamplingRNG(3, range(count))
    times = trailing(schedule, steps)
    x = noise.start((2,)) * schedule(times[:1])[1]
    return run(sampler(three_gaussians().denoiser(schedule), x, times, noise))


@pytest.mark.parametrize(
    ("still", "limit"),
    [
        (partial(ddim, eta=0.0), euler),
        (partial(euler_ancestral, eta=0.0), euler),
        (partial(dpm2_ancestral, eta=0.0), dpm2),
        (partial(dpmpp_2s_ancestral, eta=0.0), dpmpp_2s),
        (partial(edm, churn=0.0), heun),
        (partial(dpmpp_2m_sde, eta=0.0), dpmpp_2m),
        (partial(dpmpp_2m_sde, eta=0.0, slope=exact_slope), partial(exponential_multistep, order=2)),
        (partial(dpmpp_3m_sde, eta=0.0), partial(exponential_multistep, order=3, start=None)),
        (partial(sa_solver, tau=constant(0.0), predictor=1, corrector=0), euler),
        (
            partial(sa_solver, tau=constant(0.0), predictor=3, corrector=0),
            partial(exponential_multistep, order=3, start=None),
        ),
        (partial(er_sde, order=1, scale=ode), euler),
        (partial(restart, intervals=()), heun),
    ],
    ids=lambda sampler: getattr(getattr(sampler, "func", sampler), "__name__", ""),
)
def test_without_noise_each_is_its_deterministic_partner(still: Sampler, limit: Sampler) -> None:
    for name, schedule in SCHEDULES.items():
        torch.testing.assert_close(walk(still, schedule), walk(limit, schedule), rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_ddim_of_eta_one_is_ddpm_with_the_small_variance(schedule: Schedule) -> None:
    torch.testing.assert_close(walk(partial(ddim, eta=1.0), schedule), walk(ddpm, schedule), rtol=0, atol=1e-12)


def test_euler_ancestral_has_the_known_forms() -> None:
    """k-diffusion's sigma_up and sigma_down on VE; the renoising of rectified-flow samplers on a flow."""
    x, z, clean = torch.randn(3, 2).double(), torch.randn(3, 2).double(), torch.randn(3, 2).double()

    class Given:
        def normal(self, like: Tensor, step: int, part: int = 0) -> Tensor:
            return z

        def brownian(self, like: Tensor, start: float, stop: float) -> Tensor:
            return z

    here, there = 3.0, 1.2
    up = min(there, (there**2 * (here**2 - there**2) / here**2) ** 0.5)
    down = (there**2 - up**2) ** 0.5
    expected = x + (x - clean) / here * (down - here) + up * z
    denoise = Bound(EDM(), lambda x, t: Estimate(clean))
    times = torch.tensor([here, there], dtype=torch.float64)
    torch.testing.assert_close(run(euler_ancestral(denoise, x, times, Given())), expected)

    here, there, eta = 0.8, 0.5, 1.0
    step_down = there * (1 + (there / here - 1) * eta)
    renoise = (there**2 - step_down**2 * (1 - there) ** 2 / (1 - step_down) ** 2) ** 0.5
    ratio = step_down / here
    expected = (1 - there) / (1 - step_down) * (ratio * x + (1 - ratio) * clean) + z * renoise
    denoise = Bound(Flow(), lambda x, t: Estimate(clean))
    times = torch.tensor([here, there], dtype=torch.float64)
    found = run(euler_ancestral(denoise, x, times, Given(), rule=flow_rule))
    torch.testing.assert_close(found, expected)


def test_ddpm_variances_are_the_papers() -> None:
    """beta and beta-tilde on adjacent entries of a table, and the learned one between them (2102.09672, eq. 15)."""
    betas = linear_betas()
    table = Discrete(betas)
    alpha_bar = (1 - betas).cumprod(0)
    t = 500
    tilde = betas[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
    mix = torch.rand(4, 2).double()
    denoise = Bound(table, lambda x, t: Estimate(torch.zeros_like(x), mix))
    times, x = torch.tensor([float(t), t - 1.0]).double(), torch.zeros(4, 2).double()
    noise = SamplingRNG(0, range(4))
    unit = noise.normal(x, 0)
    for deviation, variance in (
        (small, tilde),
        (large, betas[t]),
        (learned, (mix * betas[t].log() + (1 - mix) * tilde.log()).exp()),
    ):
        torch.testing.assert_close(run(ddpm(denoise, x, times, noise, deviation=deviation)), variance**0.5 * unit)
    plain = Bound(table, lambda x, t: Estimate(x))
    with pytest.raises(ValueError, match="not learned a variance"):
        run(ddpm(plain, x, times, noise, deviation=learned))


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_point_is_reached_exactly(name: str) -> None:
    """Where all data is one point, every sampler ends on it, on every schedule and in any number of steps."""
    point = torch.tensor([[0.3, -1.7]])
    for label, schedule in SCHEDULES.items():
        denoise = Mixture(point).denoiser(schedule)
        for steps in (1, 2, 5):
            noise, times = SamplingRNG(0, range(3)), trailing(schedule, steps)
            x = noise.start((2,)) * schedule(times[:1])[1]
            end = run(STOCHASTIC[name].sampler(denoise, x, times, noise))
            torch.testing.assert_close(end, point.double().expand(3, 2), rtol=0, atol=1e-9, msg=f"{label}, {steps}")


@pytest.mark.parametrize("name", STOCHASTIC)
def test_sample_does_not_change_with_its_batch(name: str) -> None:
    schedule = EDM()
    denoise, times = three_gaussians().denoiser(schedule), karras(schedule, 6)

    def drawn(samples: list[int]) -> Tensor:
        noise = SamplingRNG(7, samples)
        return run(STOCHASTIC[name].sampler(denoise, noise.start((2,)) * times[0], times, noise))

    whole, part = drawn([0, 1, 2, 3, 4]), drawn([3, 1])
    torch.testing.assert_close(part, whole[[3, 1]], rtol=0, atol=1e-10)
    assert (whole[0] - whole[1]).abs().max() > 1e-3


def test_corrector_norm_of_the_batch_mixes_samples_as_published() -> None:
    from core.sample.solvers.predictor_corrector import batch_mean

    schedule = VE()
    denoise, times = three_gaussians().denoiser(schedule), trailing(schedule, 4)

    def drawn(samples: list[int]) -> Tensor:
        noise = SamplingRNG(7, samples)
        x = noise.start((2,)) * schedule(times[:1])[1]
        return run(predictor_corrector(denoise, x, times, noise, norm=batch_mean))

    assert (drawn([0, 1])[0] - drawn([0])[0]).abs().max() > 1e-6


@pytest.mark.parametrize("sampler", [dpmpp_2m_sde, dpmpp_sde], ids=["2m", "sde"])
def test_finer_grids_follow_the_same_path(sampler: Sampler) -> None:
    """The Brownian path belongs to the sample: refining the grid brings its end closer to a limit."""
    schedule, count = VP(), 24

    def end(steps: int) -> Tensor:
        lam = torch.linspace(1.5, -1.5, steps + 1, dtype=torch.float64)
        times, noise = schedule.time(lam.exp()), SamplingRNG(0, range(count))
        alpha, sigma = schedule(times[0])
        x = three_gaussians().sample(count, seed=2, alpha=float(alpha), sigma=float(sigma))
        return run(sampler(three_gaussians().denoiser(schedule), x, times, noise))

    finest = end(128)
    errors = [float((end(steps) - finest).norm(dim=1).mean()) for steps in (8, 24)]
    stranger = float((finest - finest.roll(1, 0)).norm(dim=1).mean())
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.2 * stranger


def test_restart_goes_back_up_as_often_as_asked() -> None:
    calls: list[float] = []
    schedule = EDM()
    exact = three_gaussians().denoiser(schedule)

    def estimate(x: Tensor, t: Tensor) -> Estimate:
        calls.append(float(t))
        return exact.estimate(x, t)

    noise, times = SamplingRNG(0, range(2)), karras(schedule, 10)
    intervals_used = (RestartInterval(low=0.1, high=2.0, repeats=3, steps=4),)
    run(restart(Bound(schedule, estimate), noise.start((2,)) * 80, times, noise, intervals=intervals_used))
    ups = sum(later > earlier * 1.01 for earlier, later in zip(calls, calls[1:]))
    assert ups == 3
    assert len(calls) == 2 * 9 + 1 + 3 * 4 * 2
