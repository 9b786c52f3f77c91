"""Editing against closed forms: what is kept is kept exactly, inversions come back at their order, ends are plain."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.edit import (
    Inpainted,
    image_to_image,
    inpaint,
    invert,
    invert_exactly,
    masked_condition,
    partial_grid,
    repaint,
)
from core.grid import karras, trailing
from core.random import SamplingRNG
from core.sample.ancestral import euler_ancestral
from core.sample.dpm import dpmpp_2m
from core.sample.euler import euler
from core.sample.heun import heun
from core.sample.step import Sampler, run
from core.schedule import EDM, VP, Discrete, Flow, Schedule, linear_betas
from core.verify.mixture import Mixture

SHAPE = (2, 4, 4)
MIXTURE = Mixture(
    torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)).double(),
    torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1)).double() * 0.1 + 0.02,
)
SCHEDULES = {"vp": VP(), "table": Discrete(linear_betas()), "edm": EDM(), "flow": Flow()}


class Model:
    """The closed form as something that binds."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def bind(self, cond: Cond = Cond()):
        return MIXTURE.denoiser(self.schedule)


@pytest.fixture(params=sorted(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return SCHEDULES[request.param]


def known() -> Tensor:
    return MIXTURE.sample(4, seed=3).view(4, *SHAPE)


def half() -> Tensor:
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    return mask


def test_strength_sets_how_much_stays(schedule: Schedule) -> None:
    denoise, image = MIXTURE.denoiser(schedule), known()
    grid = trailing if not isinstance(schedule, EDM) else karras
    away = []
    for strength in (0.0, 0.1, 0.4, 1.0):
        steps = list(
            image_to_image(
                denoise, image, SamplingRNG(5, range(4)), sampler=heun, grid=grid, steps=12, strength=strength
            )
        )
        assert len(steps) == (12 if strength else 1)
        away.append(float((steps[-1].x - image).square().mean()))
    assert away[0] == 0 and away[1] < away[2] < away[3]


@pytest.mark.parametrize("strength", [0.01, 0.25, 0.6, 0.99])
def test_strength_is_a_share_of_the_grid_in_exactly_as_many_steps(schedule: Schedule, strength: float) -> None:
    """Of an even grid that is a share of time; of Karras' grid the level where that share of its steps is left."""
    grid = trailing if not isinstance(schedule, EDM) else karras
    times = partial_grid(grid, strength)(schedule, 7)
    assert len(times) == 8 and bool((times[1:] < times[:-1]).all())
    assert float(schedule(times[-1])[1]) == 0
    fine = grid(schedule, 1000)
    if not isinstance(schedule, EDM):
        share = float((times[0] - fine[-1]) / (fine[0] - fine[-1]))
        assert share == pytest.approx(strength, abs=0.01)
    elif strength == 0.6:
        assert float(partial_grid(grid, strength)(schedule, 50)[0]) == pytest.approx(float(fine[400]), rel=0.15)
    assert partial_grid(grid, 1.0) is grid


def test_full_strength_from_pure_noise_is_plain_sampling() -> None:
    schedule = Flow()
    denoise, noise = MIXTURE.denoiser(schedule), SamplingRNG(5, range(4))
    edited = run(image_to_image(denoise, known(), noise, sampler=heun, grid=trailing, steps=8, strength=1.0))
    plain = run(heun(denoise, noise.start(SHAPE), trailing(schedule, 8), noise))
    assert torch.equal(edited, plain)
    with pytest.raises(ValueError, match="strength of an edit"):
        list(image_to_image(denoise, known(), noise, sampler=heun, grid=trailing, steps=8, strength=1.5))


@pytest.mark.parametrize("sampler", [euler, dpmpp_2m, heun, euler_ancestral, repaint(euler, 2, 3)])
def test_the_kept_part_comes_back_exactly(schedule: Schedule, sampler: Sampler) -> None:
    grid = trailing if not isinstance(schedule, EDM) else karras
    image, mask = known(), half()
    steps = list(
        inpaint(Model(schedule), Cond(), image, mask, SamplingRNG(1, range(4)), sampler=sampler, grid=grid, steps=6)
    )
    made = steps[-1].x
    assert torch.allclose(made[..., :2], image[..., :2], atol=1e-12)
    assert (made[..., 2:] - image[..., 2:]).abs().mean() > 0.05
    none = inpaint(
        Model(schedule), Cond(), image, 0 * mask, SamplingRNG(1, range(4)), sampler=sampler, grid=grid, steps=3
    )
    assert torch.allclose(run(none), image, atol=1e-12)


def test_a_mask_of_ones_is_plain_sampling(schedule: Schedule) -> None:
    grid = trailing if not isinstance(schedule, EDM) else karras
    noise, times = SamplingRNG(1, range(4)), grid(schedule, 6)
    made = inpaint(Model(schedule), Cond(), known(), half() * 0 + 1, noise, sampler=heun, grid=grid, steps=6)
    start = noise.start(SHAPE) * float(schedule(times[0])[1])
    assert torch.allclose(run(made), run(heun(MIXTURE.denoiser(schedule), start, times, noise)), atol=1e-12)


def test_a_deterministic_sampler_carries_the_kept_part_as_noised(schedule: Schedule) -> None:
    grid = trailing if not isinstance(schedule, EDM) else karras
    image, noise = known(), SamplingRNG(1, range(4))
    for step in inpaint(Model(schedule), Cond(), image, half(), noise, sampler=euler, grid=grid, steps=6):
        alpha, sigma = (float(value) for value in schedule(step.t))
        expected = alpha * image + sigma * noise.start(SHAPE)
        assert torch.allclose(step.x[..., :2], expected[..., :2], atol=1e-9)


def test_repaint_settles_what_is_made_with_what_is_kept() -> None:
    """Two modes far apart: the kept half says which, and the made half must agree."""
    means = torch.stack([torch.full(SHAPE, 1.0), torch.full(SHAPE, -1.0)]).double()
    modes = Mixture(means, torch.full_like(means, 0.01))

    class Two(Model):
        def bind(self, cond: Cond = Cond()):
            return modes.denoiser(self.schedule)

    image = torch.full((64, *SHAPE), 1.0).double()
    agreed = {}
    for name, sampler in (("blend", euler_ancestral), ("repaint", repaint(euler_ancestral, 2, 8))):
        made = run(
            inpaint(
                Two(VP()), Cond(), image, half(), SamplingRNG(0, range(64)), sampler=sampler, grid=trailing, steps=10
            )
        )
        agreed[name] = float((made[..., 2:].mean((1, 2, 3)) > 0.8).double().mean())
    assert agreed["repaint"] >= agreed["blend"] and agreed["repaint"] > 0.98


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the mask has size \(3, 4\), the image \(4, 4\)"):
        Inpainted(Model(VP()), known(), torch.zeros(1, 1, 3, 4))
    with pytest.raises(ValueError, match="a mask must lie between 0"):
        Inpainted(Model(VP()), known(), half() * 3)
    with pytest.raises(ValueError, match="RePaint needs"):
        repaint(euler, 0)


def test_the_inpainting_network_takes_mask_and_latents() -> None:
    latents = torch.randn(2, 4, 4, 4)
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, :, 16:] = 1
    concatenated = masked_condition(latents, mask).concat
    assert concatenated is not None and concatenated.shape == (2, 5, 4, 4)
    assert torch.equal(concatenated[:, 1:], latents) and torch.equal(concatenated[:, 0, :, :2], torch.zeros(2, 4, 2))
    assert torch.equal(concatenated[:, 0, :, 2:], torch.ones(2, 4, 2))


def round_trip(schedule: Schedule, steps: int) -> float:
    times = schedule.time(torch.linspace(math.log(3.0), math.log(0.002), steps, dtype=torch.float64).exp())
    times = torch.cat([times, schedule.time(torch.zeros(1, dtype=torch.float64))])
    denoise, image = MIXTURE.denoiser(schedule), known()
    back = run(euler(denoise, invert(denoise, image, times), times, SamplingRNG(0, range(4))))
    return float((back - image).abs().mean())


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_inversion_comes_back_at_first_order(name: str) -> None:
    coarse, fine = (round_trip(SCHEDULES[name], steps) for steps in (200, 400))
    assert coarse < 0.1
    assert math.log2(coarse / fine) == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_exact_inversion_comes_back_to_rounding(name: str) -> None:
    schedule = SCHEDULES[name]
    times = schedule.time(torch.linspace(math.log(3.0), math.log(0.3), 60, dtype=torch.float64).exp())
    times = torch.cat([times, schedule.time(torch.zeros(1, dtype=torch.float64))])
    denoise, image = MIXTURE.denoiser(schedule), known()
    x = invert_exactly(denoise, image, times, tolerance=1e-12)
    assert (run(euler(denoise, x, times, SamplingRNG(0, range(4)))) - image).abs().max() < 1e-6
    with pytest.raises(ValueError, match="pure noise remembers nothing"):
        invert(MIXTURE.denoiser(Flow()), image, trailing(Flow(), 5))
