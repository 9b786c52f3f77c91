"""DDPM, DDIM, PNDM and LCM step by step beside diffusers, on whole indices of their tables."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler, PNDMScheduler
from torch import Tensor, nn

from core.cond import Cond
from core.denoiser import Bound, Denoiser, Estimate
from core.grid import Grid, leading, linspace, times, trailing, whole
from core.prediction import Epsilon, LearnedRange
from core.sample.ddim import ddim
from core.sample.ddpm import ddpm, large, learned, small
from core.sample.solvers.consistency import consistency
from core.sample.solvers.plms import plms, pndm
from core.sample.step import Sampler
from tests.support.schedulers import (
    PREDICTIONS,
    SHAPE,
    Net,
    ours,
    table_of,
    theirs,
    unit_noise,
    variance_preserving,
    walk,
    worst,
)

TOLERANCE = 1e-5
STEPS = 10


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def compare(scheduler: Any, sampler: Sampler, grid: Grid, net: Net | None = None, **options: Any) -> float:
    """The worst difference on ten steps of their grid, which is ours."""
    scheduler.set_timesteps(STEPS)
    net = net or Net()
    prediction = PREDICTIONS[scheduler.config.prediction_type]
    bound = variance_preserving(scheduler, net, prediction if net.width == 1 else LearnedRange(prediction))
    found = grid(bound.schedule, STEPS)
    assert torch.equal(found[:-1], scheduler.timesteps.double())
    return worst(ours(bound, sampler, unit_noise(), found), theirs(scheduler, net, unit_noise(), **options))


def test_ddpm_with_every_variance_prediction_and_table() -> None:
    for beta_schedule in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"):
        for prediction_type in PREDICTIONS:
            for variance_type, deviation in (("fixed_small", small), ("fixed_large", large)):
                scheduler = DDPMScheduler(
                    beta_schedule=beta_schedule,
                    prediction_type=prediction_type,
                    variance_type=variance_type,
                    clip_sample=False,
                )
                sampler: Sampler = partial(ddpm, deviation=deviation)
                error = compare(scheduler, sampler, leading, generator=generator())
                assert error < TOLERANCE, (beta_schedule, prediction_type, variance_type, error)


def test_ddpm_with_a_learned_range() -> None:
    for prediction_type in PREDICTIONS:
        scheduler = DDPMScheduler(variance_type="learned_range", prediction_type=prediction_type, clip_sample=False)
        error = compare(scheduler, partial(ddpm, deviation=learned), leading, Net(width=2), generator=generator())
        assert error < TOLERANCE, (prediction_type, error)


def test_ddpm_on_the_other_grids() -> None:
    for spacing, grid in (("trailing", trailing), ("linspace", whole(linspace))):
        scheduler = DDPMScheduler(timestep_spacing=spacing, clip_sample=False)
        error = compare(scheduler, ddpm, grid, generator=generator())
        assert error < TOLERANCE, (spacing, error)


def test_at_a_thousand_steps_the_difference_is_their_rounding() -> None:
    """Their coefficients, such as 1 - alpha_bar near 1, are float32; ours are float64 whatever the samples are."""
    scheduler = DDPMScheduler(clip_sample=False)
    net, exact_net = Net(), Net().double()
    bound, exact = (variance_preserving(scheduler, model, Epsilon()) for model in (net, exact_net))
    grid = leading(bound.schedule, 1000)
    reference = [x.float() for x in ours(exact, ddpm, unit_noise().double(), grid)]
    our_error = worst(ours(bound, ddpm, unit_noise(), grid), reference)
    their_error = worst(theirs(scheduler, net, unit_noise(), generator=generator()), reference)
    assert our_error < TOLERANCE and 3 * our_error < their_error < 1e-4


def test_ddpm_clips_the_estimate_of_x0() -> None:
    """Clipping is a denoiser around a denoiser here, an option of the scheduler there."""
    scheduler = DDPMScheduler(clip_sample=True, clip_sample_range=0.3)
    scheduler.set_timesteps(STEPS)
    net = Net()
    inner = variance_preserving(scheduler, net, Epsilon())
    bound = Bound(inner.schedule, lambda x, t: Estimate(inner(x, t).clamp(-0.3, 0.3)))
    found = ours(bound, ddpm, unit_noise(), leading(bound.schedule, STEPS))
    expected = theirs(scheduler, net, unit_noise(), generator=generator())
    assert worst(found, expected) < TOLERANCE
    assert worst(ours(inner, ddpm, unit_noise(), leading(bound.schedule, STEPS)), expected) > 1e-2


def test_their_large_variance_adds_noise_to_the_finished_sample() -> None:
    """Theirs leaves the noise out at index 0 only: a trailing grid ends above it, and its last step is noisy."""
    scheduler = DDPMScheduler(variance_type="fixed_large", timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(STEPS)
    net = Net()
    bound = variance_preserving(scheduler, net, Epsilon())
    steps = list(walk(bound, partial(ddpm, deviation=large), unit_noise(), trailing(bound.schedule, STEPS)))
    expected = theirs(scheduler, net, unit_noise(), generator=generator())
    assert worst([step.x for step in steps[:-1]], expected[:-1]) < TOLERANCE
    assert torch.equal(steps[-1].x, steps[-1].clean)
    left = expected[-1] - steps[-1].x
    added = (1 - scheduler.alphas_cumprod[99]).sqrt()
    draws = [torch.randn(SHAPE, generator=source) for source in [generator()] for _ in range(STEPS)]
    torch.testing.assert_close(left, added * draws[-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim(eta: float) -> None:
    for prediction_type in PREDICTIONS:
        for spacing, grid in (("leading", leading), ("trailing", trailing)):
            scheduler = DDIMScheduler(timestep_spacing=spacing, prediction_type=prediction_type, clip_sample=False)
            error = compare(scheduler, partial(ddim, eta=eta), grid, eta=eta, generator=generator())
            assert error < TOLERANCE, (prediction_type, spacing, error)


def test_ddim_from_pure_noise() -> None:
    """Zero-terminal SNR: alpha = 0 at the first time, for v and for x0."""
    for prediction_type in ("v_prediction", "sample"):
        scheduler = DDIMScheduler(
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            prediction_type=prediction_type,
            clip_sample=False,
            beta_schedule="scaled_linear",
        )
        assert table_of(scheduler).alpha_bar[-1] == 0
        error = compare(scheduler, ddim, trailing)
        assert error < TOLERANCE, (prediction_type, error)


def test_ddim_that_stops_at_the_first_entry_of_the_table() -> None:
    """``set_alpha_to_one=False``, as Stable Diffusion has it: the last step goes to index 0, not to clean data."""
    scheduler = DDIMScheduler(set_alpha_to_one=False, steps_offset=1, clip_sample=False)
    scheduler.set_timesteps(STEPS)
    net = Net()
    bound = variance_preserving(scheduler, net, Epsilon())
    visited = torch.cat([scheduler.timesteps.double(), torch.zeros(1)])
    # Their other steps go from 901 to 801, as they should: the stride is the same, and so is the offset.
    assert worst(ours(bound, ddim, unit_noise(), visited), theirs(scheduler, net, unit_noise())) < TOLERANCE


class Knows(nn.Module):
    """The exact noise, or v, for data that is one known point."""

    def __init__(self, table: Tensor, point: float, velocity: bool = False) -> None:
        super().__init__()
        self.table, self.point, self.velocity = table, point, velocity

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        alpha_bar = self.table[time.long().flatten()[0]]
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        noise = (x - alpha * self.point) / sigma
        return alpha * noise - sigma * self.point if self.velocity else noise


def test_their_ddim_misses_its_own_grid_where_steps_do_not_divide_the_table() -> None:
    """Theirs always steps to t - T // N: with a perfect network and 7 trailing steps it stops short of the data."""
    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(7)
    strides = (scheduler.timesteps[:-1] - scheduler.timesteps[1:]).tolist()
    assert set(strides) == {142, 143} and 1000 // 7 == 142
    net = Knows(scheduler.alphas_cumprod, 0.5)
    bound = variance_preserving(scheduler, net, Epsilon())
    found = ours(bound, ddim, unit_noise(), trailing(bound.schedule, 7))[-1]
    expected = theirs(scheduler, net, unit_noise())[-1]
    assert (found - 0.5).abs().max() < 1e-5
    assert (expected - 0.5).abs().max() > 1e-2


def test_plms() -> None:
    """Theirs lists the second time twice, the two calls of its Heun start; the first state is no step of the grid."""
    scheduler = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=True)
    scheduler.set_timesteps(STEPS)
    assert scheduler.timesteps.tolist() == [900, 800, *range(800, -1, -100)]
    net = Net()
    bound = variance_preserving(scheduler, net, Epsilon())
    found = ours(bound, plms, unit_noise(), leading(bound.schedule, STEPS))
    assert worst(found, theirs(scheduler, net, unit_noise())[1:]) < TOLERANCE


def test_pndm_with_runge_kutta_starts() -> None:
    scheduler = PNDMScheduler(skip_prk_steps=False, set_alpha_to_one=True)
    scheduler.set_timesteps(STEPS)
    net = Net()
    bound = variance_preserving(scheduler, net, Epsilon())
    states = theirs(scheduler, net, unit_noise())
    found = ours(bound, pndm, unit_noise(), leading(bound.schedule, STEPS))
    assert worst(found, [*states[3:12:4], *states[12:]]) < TOLERANCE


def test_their_pndm_averages_velocities_of_different_levels() -> None:
    """PNDM averages the noise. Theirs averages v, whose meaning changes with the level: a perfect network misses.

    With one data point the noise is constant on the way, so that every mean of it is exact; a mean of v is not.
    """
    scheduler = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=True, prediction_type="v_prediction")
    scheduler.set_timesteps(STEPS)
    net = Knows(scheduler.alphas_cumprod, 0.5, velocity=True)
    bound = variance_preserving(scheduler, net, PREDICTIONS["v_prediction"])
    found = ours(bound, plms, unit_noise(), leading(bound.schedule, STEPS))[-1]
    expected = theirs(scheduler, net, unit_noise())[-1]
    assert (found - 0.5).abs().max() < 1e-5
    assert (expected - 0.5).abs().max() > 1e-2


def test_lcm() -> None:
    """LCM's boundary scalings differ from (0, 1) by less than 1e-7 on these times, as its golden values say."""
    for steps, expected_times in ((1, [999]), (2, [999, 499]), (4, [999, 759, 499, 259])):
        scheduler = LCMScheduler(original_inference_steps=50, clip_sample=False)
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == expected_times
        net = Net()
        denoiser = Denoiser(net, table_of(scheduler), Epsilon())
        visited = times(scheduler.timesteps)(denoiser.schedule, steps)
        found = ours(denoiser.bind(), consistency, unit_noise(), visited)
        assert worst(found, theirs(scheduler, net, unit_noise(), generator=generator())) < TOLERANCE
