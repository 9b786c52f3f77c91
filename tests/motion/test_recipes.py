"""Recipes of motions: every preset builds, tiny ones learn and sample, and MDM's sampler is the published one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, Denoiser, DenoiserLike, Estimate
from core.grid import trailing
from core.guidance import Guided
from core.objective import velocity
from core.prediction import X0
from core.prompts import Captions
from core.random import SamplingRNG, TrainingRNG
from core.recipe import build, domains
from core.sample.ddpm import ddpm
from core.sample.step import run
from core.schedule import Discrete, Schedule, cosine_betas
from core.systems.diffusion import Diffusion
from core.systems.sampling import Guide, Sampling
from motion.features import Groups, decode
from motion.generator import Motions, normal_of
from motion.nn.mdm import MDM, Encoder
from motion.physics import jerk, sliding
from motion.presets import clamped_weight
from motion.skeleton import HUMAN

TINY = {"width": 16, "depth": 1, "text_width": 16, "count": 64}
NAMES = ("mdm", "motiondiffuse", "motion_flow")


@dataclass(frozen=True)
class Fixed:
    """A denoiser whose x0 is the same whatever it is given."""

    schedule: Schedule
    clean: Tensor

    def bind(self, cond: Cond = Cond()) -> Bound:
        return Bound(self.schedule, lambda x, t: Estimate(self.clean.to(x).repeat(len(x) // len(self.clean), 1, 1)))


@pytest.mark.parametrize("name", NAMES)
def test_tiny_learns_and_samples_in_two_steps(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = build(f"motion.recipes.{name}.tiny", TINY)
    system = recipe.system()
    assert isinstance(system, Diffusion)
    batch = recipe.data()[0].get(range(4))
    losses = system.loss(batch, TrainingRNG(0, range(4)))
    losses.mean.backward()
    assert losses.each.isfinite().all()
    assert all(value.grad is not None for value in system.denoiser.net.parameters() if value.requires_grad)
    asked = recipe.prompts.default(0, [0, 1])
    sampling = Sampling(recipe.sampling.sampler, trailing, 2, guidance=2.0)
    x = run(system.eval().sample(SamplingRNG(0, [0, 1]), recipe.shape, asked, sampling))
    assert x.shape == (2, *recipe.shape) and bool(x.isfinite().all())
    recipe.modality.write(tmp_path / "motions.png", recipe.modality.decode(system.decode(x), asked), {})
    assert (tmp_path / "motions.png").stat().st_size > 1000


@pytest.mark.parametrize("name", NAMES)
def test_the_default_guidance_steadies_limbs_and_plants_feet(name: str) -> None:
    """A model whose clips glide and shake: as drawn by default they do neither, under plain guidance both."""
    recipe = build(f"motion.recipes.{name}.tiny", TINY)
    normal = normal_of()
    found = Motions(8, normal).get(range(8))
    features, valid = normal.undo(found["x"]), found["valid"]
    _, velocity_of_root, _, positions, *_ = Groups(HUMAN.joints).slices()
    features[..., velocity_of_root.start + 1] += 0.02  # metres a frame
    features[:, ::2, positions] += 0.02
    rough = normal.apply(features)

    class Rough(Diffusion):
        """Whose x0 is always the rough clips."""

        def guided(
            self, scale: float, guide: Guide = Guided, negative: Mapping[str, Any] | None = None
        ) -> DenoiserLike:
            return guide(Fixed(self.denoiser.schedule, rough), Cond(), scale)

    system = recipe.system()
    assert isinstance(system, Diffusion)
    made = Rough(system.denoiser, system.conditioner, objective=system.objective).eval()
    asked = Captions(lambda seed, samples: {"caption": found["caption"], "valid": valid})
    model = replace(recipe, prompts=asked).model(made)
    joints = {
        chosen: decode(normal.undo(model.draw(0, range(8), replace(recipe.sampling, guide=guide))))
        for chosen, guide in (("default", recipe.sampling.guide), ("plain", Guided))
    }
    slid, shook = (
        {chosen: float(measure(x, HUMAN.fps, valid).mean()) for chosen, x in joints.items()}
        for measure in (sliding, jerk)
    )
    assert slid["plain"] > 0.3 and slid["default"] < 0.2 * slid["plain"]
    assert shook["default"] < 0.4 * shook["plain"]


def test_a_clamped_weight_stays_where_noise_is_small() -> None:
    ratio = torch.tensor([0.5, 2.0, 4.0, 100.0], dtype=torch.float64)  # of signal to noise
    assert clamped_weight(velocity)(2 * ratio.log()).tolist() == pytest.approx([1.25, 5, 17, 17])


def test_motion_is_a_domain_and_published_presets_build() -> None:
    assert "motion" in domains()
    for name in NAMES:
        for preset in ("paper", "small"):
            recipe = build(f"motion.recipes.{name}.{preset}", {"data": "somewhere"})
            with torch.device("meta"):
                system = recipe.system()
            assert recipe.shape == (196, 263)
            assert sum(value.numel() for value in system.parameters()) > 1e6


def test_the_published_networks_have_the_published_sizes() -> None:
    with torch.device("meta"):
        system = build("motion.recipes.mdm.paper", {"data": "x"}).system()
    assert isinstance(system, Diffusion)
    count = sum(value.numel() for value in system.denoiser.parameters())
    assert count == pytest.approx(17.88e6, rel=1e-3)


@torch.no_grad()
def test_mdm_samples_step_by_step_as_published_in_double_precision() -> None:
    """1,000 cosine steps: x' = c0 x0 + c1 x + sqrt(beta-tilde) noise, with the tables of the published code."""
    torch.manual_seed(0)
    net = MDM(3, 8, Encoder(8, 8, 1, 2, dropout=0.0)).double().eval()
    angles = [((i / 1000 + 0.008) / 1.008) * math.pi / 2 for i in range(1001)]
    shrunk = [1 - (math.cos(after) / math.cos(before)) ** 2 for before, after in zip(angles, angles[1:])]
    betas = torch.tensor(shrunk, dtype=torch.float64).clamp(max=0.999)
    bar = (1 - betas).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    denoiser, noise = Denoiser(net, Discrete(cosine_betas()), X0()), SamplingRNG(0, [0])
    times = trailing(denoiser.schedule, 1000)
    x = noise.start((4, 3))
    expected, worst = x, 0.0
    for index, step in enumerate(ddpm(denoiser.bind(Cond()), x, times, noise)):
        t = 999 - index
        clean = net(expected, torch.tensor([float(t)], dtype=torch.float64))
        mean = betas[t] * before[t].sqrt() / (1 - bar[t]) * clean
        mean = mean + (1 - before[t]) * (1 - betas[t]).sqrt() / (1 - bar[t]) * expected
        spread = (betas[t] * (1 - before[t]) / (1 - bar[t])).sqrt()
        expected = mean + (spread * noise.normal(expected, index) if t else 0)
        worst = max(worst, float((step.x - expected).abs().max()))
        expected = step.x
    assert worst < 1e-6
