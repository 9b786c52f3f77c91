"""Rectified-flow samplers of diffusers step by step: Euler on every shift of theirs, and the stochastic one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from core.denoiser import Bound, Denoiser
from core.grid import Grid, linspace, shifted, stretched, trailing
from core.prediction import FlowVelocity
from core.sample.euler import euler
from core.sample.heun import heun
from core.sample.solvers.consistency import consistency
from core.sample.step import Sampler
from core.schedule import Flow, shift_from_mu
from tests.support.schedulers import Net, ours, theirs, two_calls, unit_noise, worst

TOLERANCE = 1e-5
STEPS = 10


def flow(net: Net, cleanest: float = 1e-3) -> Bound:
    """A flow model that embeds 1000 sigma, as diffusers' do."""
    return Denoiser(net, Flow(cleanest=cleanest), FlowVelocity(), clock=lambda t: 1000 * t).bind()


def compare(scheduler: Any, sampler: Sampler, bound: Bound, net: Net, grid: Grid, **options: Any) -> float:
    visited = grid(bound.schedule, STEPS)
    torch.testing.assert_close(visited.float(), scheduler.sigmas, rtol=1e-6, atol=1e-7)
    return worst(ours(bound, sampler, unit_noise(), visited), theirs(scheduler, net, unit_noise(), **options))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_with_a_static_shift(shift: float) -> None:
    """SD3's double shift: theirs shifts the training sigmas, spaces to the shifted end, and shifts again."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(STEPS)
    net = Net()
    assert scheduler.sigma_min == pytest.approx(float(Flow(shift=shift)(torch.tensor(1e-3))[1]), rel=1e-6)
    bound = flow(net, scheduler.sigma_min)
    assert compare(scheduler, euler, bound, net, shifted(linspace, shift)) < TOLERANCE


def test_euler_with_a_shift_for_the_resolution() -> None:
    """Flux: sigmas 1 .. 1 / N, moved by mu for the number of tokens."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = math.log(shift_from_mu(1024))
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=mu)
    net = Net()
    assert compare(scheduler, euler, flow(net), net, shifted(trailing, shift_from_mu(1024))) < TOLERANCE


def test_euler_stretched_to_a_terminal() -> None:
    """LTX-Video: the shifted sigmas are stretched to end at 0.1."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=0.9)
    net = Net()
    grid = stretched(shifted(trailing, math.exp(0.9)), last=0.1)
    assert compare(scheduler, euler, flow(net), net, grid) < TOLERANCE


def test_their_stretch_of_one_step_is_not_a_number() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scheduler.set_timesteps(sigmas=[1.0], mu=0.9)
    assert scheduler.sigmas[0].isnan()
    assert stretched(shifted(trailing, math.exp(0.9)), last=0.1)(Flow(), 1).tolist() == [1.0, 0.0]


def test_stochastic_sampling_is_consistency_sampling() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    scheduler.set_timesteps(STEPS)
    net = Net()
    error = compare(scheduler, consistency, flow(net), net, linspace, generator=torch.Generator().manual_seed(0))
    assert error < TOLERANCE


def test_their_heun_averages_velocities_and_ours_noises() -> None:
    """Two second-order methods: theirs is Heun in sigma, ours in sigma / alpha. They agree as steps shrink, as h^2."""
    differences = []
    for steps in (20, 40, 80):
        scheduler = FlowMatchHeunDiscreteScheduler()
        scheduler.set_timesteps(steps)
        net = Net()
        visited = scheduler.sigmas.double().unique_consecutive()
        visited = visited[visited < 0.95]  # away from pure noise, where sigma / alpha is infinite
        start = torch.arange(len(scheduler.sigmas))[scheduler.sigmas.double() == visited[0]][-1]
        scheduler.timesteps = scheduler.timesteps[start:]
        scheduler.set_begin_index(int(start))
        found = ours(flow(net), heun, unit_noise(), visited)
        differences.append(float((found[-2] - two_calls(theirs(scheduler, net, unit_noise()))[-2]).abs().max()))
    orders = [math.log2(coarse / fine) for coarse, fine in zip(differences, differences[1:])]
    assert all(order > 1.5 for order in orders), (differences, orders)
