"""Stable Diffusion 3 as a recipe: the published steps and times, and the tiny one through the one training loop."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from core.model import Model
from core.nn.mmdit import MMDiT
from core.random import TrainingRNG
from core.recipe import build, load
from core.schedule import Flow
from tests.support.runs import trained

SIZES = {"heads": 1, "depth": 2, "text_width": 16}
SHORT = {"steps": 2, "batch": 4, "count": 40}
PUBLISHED = {"paper": 2_028_328_000, "large": 8_056_627_520, "medium": 2_243_171_520}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny model after two steps, in the code of an autoencoder after two."""
    folder = tmp_path_factory.mktemp("sd3")
    first = trained("image.recipes.autoencoder.tiny", {**SHORT}, folder / "autoencoder")
    return load(trained("image.recipes.sd3.tiny", {**SIZES, **SHORT, "autoencoder": str(first)}, folder / "run"))


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_presets_sample_and_train_as_published(preset: str) -> None:
    recipe = build(f"image.recipes.sd3.{preset}", {"data": "nowhere", "autoencoder": "nowhere"})
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(recipe.sampling.steps)
    times = recipe.sampling.grid(Flow(), recipe.sampling.steps)
    torch.testing.assert_close(times.float(), scheduler.sigmas, rtol=0, atol=1e-6)
    golden = torch.tensor([1.0, 0.987381, 0.974108, 0.737056, 0.110906, 0.008929, 0.0])  # of the published scheduler
    torch.testing.assert_close(times[[0, 1, 2, 14, 26, 27, 28]].float(), golden, rtol=0, atol=1e-6)
    with torch.device("meta"):
        system = recipe.system()
    assert sum(value.numel() for value in system.denoiser.net.parameters()) == PUBLISHED[preset]
    # Training's times are those of a logit-normal density shifted by 3, as sampling's are.
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    plain = torch.special.ndtri(u).sigmoid()
    drawn = system.objective.times(Flow(), u)
    place = (drawn - Flow().cleanest) / (1 - Flow().cleanest)
    torch.testing.assert_close(place, 3 * plain / (1 + 2 * plain), rtol=0, atol=1e-3)


def test_what_it_learned_is_in_the_checkpoint(run: Model) -> None:
    net = run.system.denoiser.net
    assert isinstance(net, MMDiT)
    fresh = MMDiT(4, 1, 2, 16, 16, 32, size=8, table=4, normed=True)
    moved = {name.split(".")[0] for name, value in net.named_parameters() if bool(value.detach().ne(0).any())}
    assert moved == {name.split(".")[0] for name, _ in fresh.named_parameters()}
    assert torch.equal(net.positions, fresh.positions)
    assert bool(net.readout.weight.detach().abs().max() > 0)  # it began at 0


def test_a_sample_is_the_same_in_any_company(run: Model) -> None:
    """Captions of other lengths in the batch pad this one, which its mask must hide."""
    options = dataclasses.replace(run.sampling, steps=2)
    together = run.draw(0, range(6), options)
    assert together.shape == (6, 3, 32, 32) and bool(together.isfinite().all())
    for number in (1, 4):
        alone = run.draw(0, [number], options)
        torch.testing.assert_close(together[[number]], alone, rtol=0, atol=1e-4)


def test_padding_is_never_read(run: Model) -> None:
    """Real words first, then padding: the network gets what a shorter text encoder gives."""
    net, words = run.system.denoiser.net, run.system.conditioner
    cond = words({"caption": ["a red 7 on the left on white", "two words"]})
    assert cond.tokens is not None and cond.mask is not None and not bool(cond.mask.all())
    noisy = dataclasses.replace(cond, tokens=torch.where(cond.mask[..., None], cond.tokens, 50.0))
    x, time = torch.randn(2, 4, 8, 8), torch.tensor([900.0, 300.0])
    with torch.no_grad():
        torch.testing.assert_close(net(x, time, noisy), net(x, time, cond), rtol=0, atol=1e-5)


def test_every_part_that_learns_is_taught(run: Model) -> None:
    """The text encoder and the pooled vector learn with the network; the autoencoder does not."""
    recipe = build(run.name, run.metadata["arguments"])
    system = recipe.system()
    system.codec.load_state_dict(run.system.codec.state_dict())
    data = recipe.data()[0].get(range(4))
    for _ in range(5):  # the readout and every gate begin at 0, and let nothing through at first
        system.zero_grad()
        system.loss(data, TrainingRNG(0, range(4))).mean.backward()
        with torch.no_grad():
            for value in system.parameters():
                if value.grad is not None:
                    value -= 0.1 * value.grad.sign()
    silent = {name.split(".")[0] for name, value in system.named_parameters() if value.grad is None}
    assert silent == {"codec"}
    untaught = [
        name for name, value in system.named_parameters() if value.grad is not None and not bool(value.grad.ne(0).any())
    ]
    assert untaught == []
