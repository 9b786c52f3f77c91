"""The Euler family, LMS, EDM, score-SDE and consistency samplers of diffusers, on paths whose alpha is 1."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
    ScoreSdeVeScheduler,
)
from torch import Tensor, nn

from core.cond import Cond
from core.denoiser import Denoiser, change_schedule
from core.grid import exponential, karras, leading, trailing
from core.prediction import Epsilon, F, Score
from core.sample.ancestral import euler_ancestral
from core.sample.euler import euler
from core.sample.heun import dpm2, heun
from core.sample.solvers.adams import lms
from core.sample.solvers.ancestral import dpm2_ancestral
from core.sample.solvers.consistency import consistency
from core.sample.solvers.predictor_corrector import batch_mean, predictor_corrector
from core.sample.solvers.sde import dpmpp_sde
from core.sample.step import Sampler
from core.schedule import EDM, VE
from tests.support.schedulers import (
    PREDICTIONS,
    Net,
    Tape,
    exploding,
    listed,
    ours,
    ratios,
    table_of,
    theirs,
    two_calls,
    unit_noise,
    walk,
    worst,
)

TOLERANCE = 1e-5
STEPS = 10
SAMPLERS: dict[type, Sampler] = {
    EulerDiscreteScheduler: euler,
    EulerAncestralDiscreteScheduler: euler_ancestral,
    HeunDiscreteScheduler: heun,
    KDPM2DiscreteScheduler: dpm2,
    KDPM2AncestralDiscreteScheduler: dpm2_ancestral,
    LMSDiscreteScheduler: partial(lms, start=None),
}


def reference(scheduler: Any, net: nn.Module, x: Tensor) -> list[Tensor]:
    """Their states at the ends of steps."""
    noisy = "generator" in inspect.signature(scheduler.step).parameters
    states = (
        theirs(scheduler, net, x, generator=torch.Generator().manual_seed(0)) if noisy else theirs(scheduler, net, x)
    )
    return states if len(states) == len(ratios(scheduler)) - 1 else two_calls(states)


def test_euler_family_on_whole_indices() -> None:
    """Leading and trailing times are indices of the table: ours finds them, and their levels, from the table."""
    for kind, sampler in SAMPLERS.items():
        for prediction_type in ("epsilon", "v_prediction"):
            for spacing, grid in (("leading", leading), ("trailing", trailing)):
                scheduler = kind(timestep_spacing=spacing, prediction_type=prediction_type)
                scheduler.set_timesteps(STEPS)
                net, x = Net(), unit_noise() * scheduler.sigmas.max()
                bound = exploding(scheduler, net, PREDICTIONS[prediction_type])
                visited = grid(table_of(scheduler), STEPS)
                alpha, sigma = table_of(scheduler)(visited)
                torch.testing.assert_close(sigma / alpha, ratios(scheduler), rtol=1e-6, atol=0)
                error = worst(ours(bound, sampler, x, sigma / alpha), reference(scheduler, net, x))
                assert error < TOLERANCE, (kind, prediction_type, spacing, error)


def test_euler_family_on_curved_levels() -> None:
    for kind, sampler in SAMPLERS.items():
        for option, grid in (("use_karras_sigmas", karras), ("use_exponential_sigmas", exponential)):
            if option not in kind().config:
                continue
            scheduler = kind.from_config(kind().config, **{option: True})
            scheduler.set_timesteps(STEPS)
            net, x = Net(), unit_noise() * scheduler.sigmas.max()
            bound = exploding(scheduler, net, Epsilon())
            alpha, sigma = table_of(scheduler)(grid(table_of(scheduler), STEPS))
            torch.testing.assert_close(sigma / alpha, ratios(scheduler), rtol=2e-6, atol=0)
            expected = reference(scheduler, net, x)
            error = worst(ours(bound, sampler, x, ratios(scheduler)), expected)
            if kind in (KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler) and option == "use_karras_sigmas":
                # Theirs tells the network rounded times at the levels, and exact ones at the midpoints between.
                assert error > 1e-4
                assert torch.equal(scheduler.timesteps[::2], scheduler.timesteps[::2].round())
                clock_times = iter(scheduler.timesteps)
                denoiser = Denoiser(
                    net, table_of(scheduler), Epsilon(), clock=lambda t, clock_times=clock_times: next(clock_times)
                )
                bound = change_schedule(denoiser, EDM(), Cond())
                error = worst(ours(bound, sampler, x, ratios(scheduler)), expected)
            assert error < TOLERANCE, (kind, option, error)


def test_euler_family_between_indices() -> None:
    for kind, sampler in SAMPLERS.items():
        scheduler = kind(timestep_spacing="linspace")
        scheduler.set_timesteps(STEPS)
        net, x = Net(), unit_noise() * scheduler.sigmas.max()
        error = worst(
            ours(exploding(scheduler, net, Epsilon()), sampler, x, ratios(scheduler)), reference(scheduler, net, x)
        )
        assert error < TOLERANCE, (kind, error)


def test_they_disagree_with_themselves_between_indices() -> None:
    """Their sigma is linear between the entries at set_timesteps, their time log-linear in sigma everywhere else."""
    scheduler = EulerDiscreteScheduler(timestep_spacing="linspace", beta_schedule="scaled_linear")
    scheduler.set_timesteps(30)
    table = np.log((((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5).numpy())
    back = np.array([scheduler._sigma_to_t(sigma, table) for sigma in scheduler.sigmas[:-1].numpy()])
    assert 1e-3 < np.abs(back - scheduler.timesteps.numpy()).max() < 0.5
    ours_back = table_of(scheduler).time(scheduler.sigmas[:-1].double()).numpy()
    assert np.abs(back - ours_back).max() < 1e-3


def test_dpm_solver_sde(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their module imports torchsde for its Brownian tree only, whose place the shared noise takes."""
    monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
    module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
    scheduler = module.DPMSolverSDEScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    net, x, tape = Net(), unit_noise() * scheduler.sigmas.max(), Tape(0)
    scheduler.noise_sampler = lambda sigma, sigma_next: tape.brownian(x, 0, 1)
    expected = reference(scheduler, net, x)
    error = worst(ours(exploding(scheduler, net, Epsilon()), dpmpp_sde, x, ratios(scheduler)), expected)
    assert error < TOLERANCE and tape.draws == 2 * (STEPS - 1)


def test_edm_euler() -> None:
    for kind, grid in (("karras", karras), ("exponential", exponential)):
        scheduler = EDMEulerScheduler(sigma_schedule=kind)
        scheduler.set_timesteps(STEPS)
        net = Net(angle=lambda t: (4 * t).exp().atan())
        denoiser = Denoiser(net, EDM(), F(), clock=lambda t: t.log() / 4)
        x = unit_noise() * 80
        visited = grid(denoiser.schedule, STEPS)
        torch.testing.assert_close(visited.float(), scheduler.sigmas, rtol=1e-5, atol=0)
        error = worst(ours(denoiser.bind(), euler, x, visited), theirs(scheduler, net, x))
        assert error < TOLERANCE, (kind, error)


class ScoreNet(Net):
    """A net of sigma whose output is the score of the variance-exploding path."""

    def __init__(self) -> None:
        super().__init__(angle=lambda sigma: sigma.atan())

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        sigma = time.float().expand(x.shape[0])[:, None, None]
        return -super().forward(x / (1 + sigma**2).sqrt(), time) / sigma


@torch.no_grad()
def score_pipeline(scheduler: ScoreSdeVeScheduler, net: nn.Module, x: Tensor) -> list[Tensor]:
    """Their pipeline: correct, predict, and return the mean of the last prediction."""
    generator, states = torch.Generator().manual_seed(0), []
    for index, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[index]
        for _ in range(scheduler.config.correct_steps):
            x = scheduler.step_correct(net(x, sigma), x, generator=generator).prev_sample
        output = scheduler.step_pred(net(x, sigma), t, x, generator=generator)
        x = output.prev_sample
        states.append(x)
    return [*states[:-1], output.prev_sample_mean]


def test_score_sde_ve() -> None:
    for corrections in (0, 1, 2):
        scheduler = ScoreSdeVeScheduler(correct_steps=corrections, sigma_max=50.0)
        scheduler.set_timesteps(STEPS)
        scheduler.set_sigmas(STEPS)
        net, x = ScoreNet(), unit_noise() * 50
        schedule = VE(sigma_max=50.0)
        levels = torch.cat([scheduler.discrete_sigmas.flip(0).double(), torch.zeros(1)])
        # The network gets a sigma a little off the level of the step, as sampling_eps moves it.
        bound = listed(net, schedule, Score(), schedule.time(levels[:-1]), scheduler.sigmas, None)
        sampler: Sampler = partial(
            predictor_corrector, corrections=corrections, snr=scheduler.config.snr, norm=batch_mean
        )
        error = worst(ours(bound, sampler, x, schedule.time(levels)), score_pipeline(scheduler, net, x))
        assert error < TOLERANCE, (corrections, error)


def test_their_corrector_makes_a_sample_depend_on_its_neighbours() -> None:
    scheduler = ScoreSdeVeScheduler(sigma_max=50.0)
    scheduler.set_timesteps(STEPS)
    scheduler.set_sigmas(STEPS)
    net, x = ScoreNet(), unit_noise() * 50
    neighbours = torch.cat([x[:1], 3 * x[1:]])
    alone, together = (score_pipeline(scheduler, net, start)[0][0] for start in (x, neighbours))
    assert (alone - together).abs().max() > 1e-2
    bound = Denoiser(net, VE(sigma_max=50.0), Score(), clock=lambda t: VE(sigma_max=50.0)(t)[1]).bind()
    visited = exponential(bound.schedule, STEPS)
    first = (next(iter(walk(bound, predictor_corrector, start, visited))).x[0] for start in (x, neighbours))
    torch.testing.assert_close(next(first), next(first), rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Boundary:
    """Consistency models' parameterisation, x0 = x at sigma_min (2303.01469, appendix C)."""

    sigma_min: float = 0.002
    data: float = 0.5

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return 1 / (sigma**2 + self.data**2).sqrt()

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        x_t = x + sigma * noise
        return (x - self.clean(x_t, torch.zeros_like(x), alpha, sigma)) / self.gain(alpha, sigma)

    def clean(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        skip = self.data**2 / ((sigma - self.sigma_min) ** 2 + self.data**2)
        return skip * x_t + self.gain(alpha, sigma) * output

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (sigma - self.sigma_min) * self.data / (sigma**2 + self.data**2).sqrt()


def test_consistency_models() -> None:
    """Two steps, 80 and 1.38, as published; the model's x0 carries noise of sigma_min, and no more is added to it."""
    scheduler = CMStochasticIterativeScheduler(num_train_timesteps=40, clip_denoised=False)
    scheduler.set_timesteps(timesteps=[22, 0])
    assert scheduler.sigmas.tolist() == pytest.approx([80, 1.38236797, 0.002], rel=1e-6)
    net = Net(angle=lambda t: (t / 250).exp().atan())
    denoiser = Denoiser(net, EDM(), Boundary(), clock=lambda t: 250 * t.log())
    x = unit_noise() * 80
    found = ours(denoiser.bind(), partial(consistency, floor=0.002), x, scheduler.sigmas.double())
    expected = theirs(scheduler, net, x, generator=torch.Generator().manual_seed(0))
    assert worst(found, expected) < TOLERANCE
    curve = karras(EDM(cleanest=0.002, noisiest=80.0), 40)
    torch.testing.assert_close(curve[[0, 22, 39]], scheduler.sigmas.double(), rtol=1e-5, atol=0)
