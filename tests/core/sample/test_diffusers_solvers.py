"""DPM-Solver++, DEIS, UniPC and SA-Solver of diffusers, step by step, and what goes wrong in theirs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from core.denoiser import Denoiser
from core.grid import Grid, exponential, karras, sgm_uniform, trailing, whole
from core.prediction import Epsilon, F, FlowVelocity
from core.sample.dpm import dpmpp_2m
from core.sample.solvers.adams import deis
from core.sample.solvers.dpm import dpmpp_2s, dpmpp_3m
from core.sample.solvers.exponential import exponential_multistep as exponential_sampler
from core.sample.solvers.sa_solver import constant, sa_solver
from core.sample.solvers.sde import dpmpp_2m_sde, dpmpp_3m_sde, exact_slope
from core.sample.solvers.unipc import bh1, unipc
from core.sample.step import Sampler, levels
from core.schedule import EDM, Flow
from tests.support.schedulers import (
    PREDICTIONS,
    Net,
    listed,
    ours,
    table_of,
    theirs,
    unit_noise,
    variance_preserving,
    walk,
    worst,
)

INTEGER_TIMED: dict[type, Sampler] = {
    DPMSolverMultistepScheduler: dpmpp_2m,
    UniPCMultistepScheduler: partial(unipc, start=None),
}
TOLERANCE = 1e-5
STEPS = 10


def compare(scheduler: Any, sampler: Sampler, **options: Any) -> float:
    """The worst difference over all steps, on their whole times and their last level."""
    scheduler.set_timesteps(STEPS)
    net = Net()
    bound = variance_preserving(scheduler, net, PREDICTIONS[scheduler.config.prediction_type])
    last = bound.schedule.time(scheduler.sigmas[-1:].double())
    visited = torch.cat([scheduler.timesteps.double(), last])
    return worst(ours(bound, sampler, unit_noise(), visited), theirs(scheduler, net, unit_noise(), **options))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_dpm_solver_multistep() -> None:
    midpoint, exact = {"solver_type": "midpoint"}, {"solver_type": "heun"}
    for options, sampler in (
        (midpoint, dpmpp_2m),
        (exact, partial(exponential_sampler, order=2)),
        ({"solver_order": 3, "lower_order_final": False}, dpmpp_3m),
        ({"final_sigmas_type": "sigma_min", "lower_order_final": False}, dpmpp_2m),
    ):
        for prediction_type in PREDICTIONS:
            for spacing in ("linspace", "trailing"):
                scheduler = DPMSolverMultistepScheduler(
                    prediction_type=prediction_type, timestep_spacing=spacing, **options
                )
                error = compare(scheduler, sampler)
                assert error < TOLERANCE, (options, prediction_type, spacing, error)


def test_dpm_solver_grids_are_ours() -> None:
    grids: dict[str, Grid] = {"linspace": whole(sgm_uniform), "trailing": trailing}
    for spacing, grid in grids.items():
        scheduler = DPMSolverMultistepScheduler(timestep_spacing=spacing)
        scheduler.set_timesteps(STEPS)
        assert torch.equal(grid(table_of(scheduler), STEPS)[:-1], scheduler.timesteps.double())


def test_dpm_solver_for_the_sde() -> None:
    for solver_type, sampler in (("midpoint", dpmpp_2m_sde), ("heun", partial(dpmpp_2m_sde, slope=exact_slope))):
        for prediction_type in PREDICTIONS:
            scheduler = DPMSolverMultistepScheduler(
                algorithm_type="sde-dpmsolver++", solver_type=solver_type, prediction_type=prediction_type
            )
            error = compare(scheduler, sampler, generator=generator())
            assert error < TOLERANCE, (solver_type, prediction_type, error)


def test_their_third_order_sde_solver_has_a_sign_wrong() -> None:
    """The last coefficient of k-diffusion is ``1/2 - (1 - exp(-2h) - 2h) / ..``; theirs has -1/2: one D2 is missing.

    The step's error does not vanish with its size: it is the whole second difference of the last three x0.
    """
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++", solver_order=3, solver_type="heun", lower_order_final=False
    )
    scheduler.set_timesteps(STEPS)
    net = Net()
    bound = variance_preserving(scheduler, net, Epsilon())
    visited = torch.cat([scheduler.timesteps.double(), -torch.ones(1)])
    steps = list(walk(bound, partial(dpmpp_3m_sde, curvature=0.5), unit_noise(), visited))
    expected = theirs(scheduler, net, unit_noise(), generator=generator())
    assert worst([step.x for step in steps[:2]], expected[:2]) < TOLERANCE, "the first two steps are of lower order"
    path = levels(bound.schedule, visited)
    place = [level.half_log_snr for level in path]
    slopes = [(steps[i + 1].clean - steps[i].clean) / (place[i + 1] - place[i]) for i in (0, 1)]
    width = place[3] - place[2]
    second_difference = width**2 * (slopes[1] - slopes[0]) / (place[2] - place[0])
    missing = steps[2].x - expected[2]
    torch.testing.assert_close(missing, path[3].alpha * second_difference, rtol=1e-4, atol=1e-5)
    assert missing.abs().max() > 0.1


def test_dpm_solver_singlestep() -> None:
    """Their 2S takes the grid's odd levels for midpoints: on levels of equal log-SNR they are the middles."""
    scheduler = DPMSolverSinglestepScheduler(use_exponential_sigmas=True, lower_order_final=False)
    scheduler.set_timesteps(STEPS)
    net, table = Net(), table_of(scheduler)
    path = table.time(scheduler.sigmas.double())
    # Between levels their times are cut to whole indices: with the same times, the samplers agree.
    bound = listed(net, table, Epsilon(), path[:-1], scheduler.timesteps, None)
    expected = theirs(scheduler, net, unit_noise())
    found = ours(bound, dpmpp_2s, unit_noise(), path[[0, 2, 4, 6, 8]])
    assert worst(found, expected[1:8:2]) < TOLERANCE


def test_their_times_are_cut_to_integers_and_their_levels_are_not() -> None:
    """On curved grids the level of a step lies between indices, but their network gets a whole one."""
    for kind, sampler in (
        (DPMSolverMultistepScheduler, dpmpp_2m),
        (UniPCMultistepScheduler, partial(unipc, start=None)),
    ):
        for option, grid in (("use_karras_sigmas", karras), ("use_exponential_sigmas", exponential)):
            scheduler = kind.from_config(kind().config, **{option: True})
            scheduler.set_timesteps(STEPS)
            net, table = Net(), table_of(scheduler)
            visited = table.time(scheduler.sigmas.double())
            torch.testing.assert_close(visited, grid(table, STEPS), rtol=0, atol=2e-3)
            assert 0.3 < (visited[:-1] - scheduler.timesteps).abs().max() <= 1
            expected = theirs(scheduler, net, unit_noise())
            listed_denoiser = listed(net, table, Epsilon(), visited[:-1], scheduler.timesteps, None)
            error = worst(ours(listed_denoiser, sampler, unit_noise(), visited), expected)
            assert error < TOLERANCE, (kind, option, error)
            true = variance_preserving(scheduler, net, Epsilon())
            assert worst(ours(true, sampler, unit_noise(), visited), expected) > 1e-4


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order: int) -> None:
    """Theirs has no final zero: its last step goes to the first entry of the table."""
    for prediction_type in PREDICTIONS:
        scheduler = DEISMultistepScheduler(solver_order=order, lower_order_final=False, prediction_type=prediction_type)
        error = compare(scheduler, partial(deis, order=order, start=None))
        assert scheduler.sigmas[-1] > 0
        assert error < TOLERANCE, (prediction_type, error)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order: int) -> None:
    for prediction_type in PREDICTIONS:
        scheduler = UniPCMultistepScheduler(solver_order=order, prediction_type=prediction_type)
        error = compare(scheduler, partial(unipc, order=order, start=None))
        assert error < TOLERANCE, (prediction_type, error)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_their_unipc_with_bh1_ends_in_nan(order: int) -> None:
    """B(h) = h is infinite on the last step, to clean data, where theirs multiplies it by zero."""
    scheduler = UniPCMultistepScheduler(solver_order=order, solver_type="bh1")
    scheduler.set_timesteps(STEPS)
    net = Net()
    bound = variance_preserving(scheduler, net, Epsilon())
    visited = torch.cat([scheduler.timesteps.double(), -torch.ones(1)])
    steps = list(walk(bound, partial(unipc, order=order, size=bh1, start=None), unit_noise(), visited))
    expected = theirs(scheduler, net, unit_noise())
    assert worst([step.x for step in steps[:-1]], expected[:-1]) < TOLERANCE
    assert expected[-1].isnan().all() and torch.equal(steps[-1].x, steps[-1].clean)


def test_edm_dpm_solver() -> None:
    for options, sampler in (
        ({}, dpmpp_2m),
        ({"solver_type": "heun"}, partial(exponential_sampler, order=2)),
        ({"solver_order": 3, "lower_order_final": False}, dpmpp_3m),
        ({"algorithm_type": "sde-dpmsolver++"}, dpmpp_2m_sde),
    ):
        scheduler = EDMDPMSolverMultistepScheduler(**options)
        scheduler.set_timesteps(STEPS)
        net = Net(angle=lambda t: (4 * t).exp().atan())
        denoiser = Denoiser(net, EDM(), F(), clock=lambda t: t.log() / 4)
        x = unit_noise() * 80
        extra = {"generator": generator()} if "algorithm_type" in options else {}
        found = ours(denoiser.bind(), sampler, x, karras(denoiser.schedule, STEPS))
        error = worst(found, theirs(scheduler, net, x, **extra))
        assert error < TOLERANCE, (options, error)


def flow_mode(scheduler: Any, sampler: Sampler) -> tuple[float, Tensor, Tensor]:
    """In flow mode: the worst difference with their times; our last x with sigma itself, and theirs."""
    scheduler.set_timesteps(STEPS)
    net = Net()
    visited = scheduler.sigmas.double()
    expected = theirs(scheduler, net, unit_noise())
    listed_denoiser = listed(net, Flow(), FlowVelocity(), visited[:-1], scheduler.timesteps, None)
    true = Denoiser(net, Flow(), FlowVelocity(), clock=lambda t: 1000 * t).bind()
    error = worst(ours(listed_denoiser, sampler, unit_noise(), visited), expected)
    return error, ours(true, sampler, unit_noise(), visited)[-1], expected[-1]


def test_flow_mode() -> None:
    """Their times, 1000 sigma, are cut to integers in flow mode too: an error of 1e-4 that no step count removes."""
    for kind, sampler in (
        (DPMSolverMultistepScheduler, dpmpp_2m),
        (UniPCMultistepScheduler, partial(unipc, start=None)),
    ):
        scheduler = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
        error, found, expected = flow_mode(scheduler, sampler)
        assert error < TOLERANCE, (kind, error)
        assert scheduler.timesteps.dtype == torch.int64
        assert (found - expected).abs().max() > 5e-5


def test_sa_solver() -> None:
    """Of order one, predictor and corrector; each step of order two of theirs adds a term of size h^3 of its own."""
    for tau in (0.0, 0.6, 1.0):
        scheduler = SASolverScheduler(predictor_order=1, corrector_order=1, tau_func=lambda t, tau=tau: tau)
        sampler: Sampler = partial(sa_solver, tau=constant(tau), predictor=1, corrector=1)
        error = compare(scheduler, sampler, generator=generator())
        assert error < TOLERANCE, (tau, error)
