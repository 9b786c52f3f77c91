"""Stable Diffusion as a recipe: the published networks, table and steps, and what each version predicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from core.prediction import Epsilon, V
from core.recipe import build
from core.sample.ddim import ddim
from core.sample.solvers.plms import plms
from core.sample.step import Sampler
from core.schedule import Discrete
from core.systems.diffusion import Diffusion

PUBLISHED: dict[str, tuple[int, int, int, type, Sampler]] = {
    "paper": (859_520_964, 768, 512, Epsilon, plms),
    "sd2": (865_910_724, 1024, 512, Epsilon, ddim),
    "sd2_v": (865_910_724, 1024, 768, V, ddim),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_presets_are_the_published_models(preset: str) -> None:
    parameters, text, size, prediction, sampler = PUBLISHED[preset]
    recipe = build(f"image.recipes.stable_diffusion.{preset}", {"data": "nowhere", "autoencoder": "nowhere"})
    assert recipe.shape == (4, size // 8, size // 8)
    assert (recipe.sampling.sampler, recipe.sampling.steps, recipe.sampling.guidance) == (sampler, 50, 7.5)
    with torch.device("meta"):
        system = recipe.system()
    assert isinstance(system, Diffusion) and isinstance(system.denoiser.prediction, prediction)
    nothing = system.conditioner.null(1)
    assert sum(value.numel() for value in system.denoiser.net.parameters()) == parameters
    assert nothing.tokens is not None and nothing.tokens.shape[1:] == (77, text)
    assert system.objective.drop == 0.1


def test_table_and_steps_are_the_published_scheduler_s() -> None:
    recipe = build("image.recipes.stable_diffusion.paper", {"data": "nowhere", "autoencoder": "nowhere"})
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    with torch.device("meta"):
        system = recipe.system()
    assert isinstance(system, Diffusion)
    schedule = system.denoiser.schedule
    assert isinstance(schedule, Discrete)
    alpha, _ = schedule(torch.arange(1000, dtype=torch.float64))
    torch.testing.assert_close((alpha**2).float(), scheduler.alphas_cumprod, rtol=1e-5, atol=0)
    scheduler.set_timesteps(50)
    assert recipe.sampling.grid(schedule, 50)[:-1].int().tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("v", [False, True])
def test_tiny_presets_are_weighted_as_what_they_predict(v: bool) -> None:
    """The loss is the plain squared error of noise, or of v, at whole indices of the table."""
    recipe = build("image.recipes.stable_diffusion.tiny", {"v": v, "width": 16, "text_width": 16})
    system = recipe.system()
    assert isinstance(system, Diffusion)
    schedule, prediction = system.denoiser.schedule, system.denoiser.prediction
    places = torch.rand(50, dtype=torch.float64)
    t = system.objective.times(schedule, places)
    assert torch.equal(t, t.round()) and 0 <= float(t.min()) <= float(t.max()) <= 999
    alpha, sigma = schedule(t)
    gain = prediction.gain(alpha, sigma)
    torch.testing.assert_close(
        system.objective.weight(2 * (alpha / sigma).log()) * gain**2, torch.ones(50, dtype=torch.float64)
    )
