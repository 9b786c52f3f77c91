"""A model with a ControlNet beside it: new it changes nothing; it alone learns and is saved; it follows pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.autoencoder.net import sd_vae
from core.condition import Conditioner
from core.denoiser import Denoiser
from core.grid import trailing
from core.guidance.guided import substitute
from core.nn.controlnet import ControlCond
from core.nn.text import TextEncoder
from core.nn.text_unet import TextUNet
from core.nn.text_unet_plan import Plan
from core.objective import Objective
from core.prediction import FlowVelocity
from core.random import SamplingRNG, TrainingRNG
from core.sample.euler import euler
from core.sample.step import run
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.systems.sampling import Sampling
from core.text.words import Words
from core.weights.checkpoint import fill
from image.controlnet import OWN, ControlNetDiffusion, hint_widths

CAPTIONS = ["a red 7", "a blue 1"]


def base() -> Diffusion:
    torch.manual_seed(0)
    net = TextUNet(Plan(1, 1, (8, 16), (0, 1), 16, blocks=1, heads=2, groups=4))
    words = Words(TextEncoder(16, 1, 2, 8))
    with torch.no_grad():
        for parameter in [*net.parameters(), *words.parameters()]:
            parameter.normal_(std=0.1)
    return Diffusion(Denoiser(net, Flow(), FlowVelocity()), words, objective=Objective(drop=0.5))


def pictures(count: int, seed: int = 0) -> Tensor:
    """Squares at places that only they say."""
    random = torch.Generator().manual_seed(seed)
    found = torch.zeros(count, 1, 8, 8)
    for row, (top, left) in enumerate(torch.randint(0, 5, (count, 2), generator=random).tolist()):
        found[row, :, top : top + 3, left : left + 3] = 1
    return found


def drawn(system: Diffusion, asked: dict[str, object], guidance: float = 3.0) -> Tensor:
    sampling = Sampling(euler, trailing, steps=3, guidance=guidance)
    return run(system.sample(SamplingRNG(0, range(2)), (1, 8, 8), asked, sampling))


def test_new_it_changes_nothing() -> None:
    system = ControlNetDiffusion(base(), hint_widths=(4,))
    asked = {"caption": CAPTIONS}
    assert torch.equal(drawn(system, {**asked, "control": pictures(2)}), drawn(base(), asked))


def test_it_alone_learns_is_saved_and_comes_back() -> None:
    """With the right pictures the loss falls below what it is with other ones."""
    plain = base()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    system = ControlNetDiffusion(plain, hint_widths=(8,))
    trained = {name for name, value in system.named_parameters() if value.requires_grad}
    assert trained == set(system.state_dict()) and all(name.startswith(OWN) for name in trained)
    optimizer = torch.optim.Adam([value for value in system.parameters() if value.requires_grad], lr=1e-2)
    for step in range(80):
        seen = pictures(16, step)
        batch = {"x": 2 * seen - 1, "caption": ["a square"] * 16, "control": seen}
        optimizer.zero_grad()
        system.loss(batch, TrainingRNG(0, range(16 * step, 16 * step + 16))).mean.backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items() if OWN not in name)
    seen = pictures(64, 1000)
    batch = {"x": 2 * seen - 1, "caption": ["a square"] * 64}
    with torch.no_grad():
        right = system.loss({**batch, "control": seen}, TrainingRNG(1, range(64))).mean
        wrong = system.loss({**batch, "control": seen.roll(1, 0)}, TrainingRNG(1, range(64))).mean
    assert right < 0.95 * wrong

    again = ControlNetDiffusion(base(), hint_widths=(8,))
    fill(again, system.state_dict(), Path("it"))
    asked = {"caption": CAPTIONS, "control": pictures(2)}
    assert torch.equal(drawn(again, asked), drawn(system, asked))
    assert not torch.equal(drawn(system, asked), drawn(system, {**asked, "control": pictures(2, 5)}))


def test_what_is_dropped_and_avoided_keeps_the_picture() -> None:
    system = ControlNetDiffusion(base(), hint_widths=(4,))
    control = pictures(2)
    cond, null = system.conditioner({"caption": CAPTIONS, "control": control}), system.conditioner.null(2)
    wanted = control.expand(-1, 3, -1, -1)
    for kept in (cond.where(torch.tensor([False, False]), null), substitute(cond, system.conditioner.null(1))):
        assert isinstance(kept, ControlCond) and kept.control is not None and kept.tokens is not None
        assert torch.equal(kept.control, wanted) and torch.equal(kept.tokens, null.tokens)
    asked = {"caption": CAPTIONS, "control": (255 * control).to(torch.uint8)}
    given_condition = system.conditioner(asked)
    assert (
        isinstance(given_condition, ControlCond)
        and given_condition.control is not None
        and torch.equal(given_condition.control, wanted)
    )
    with pytest.raises(ValueError, match="no pictures"):
        drawn(system, {"caption": CAPTIONS})


def test_what_it_is_not_for() -> None:
    with pytest.raises(ValueError, match="this model has a Identity"):
        ControlNetDiffusion(Diffusion(Denoiser(nn.Identity(), Flow(), FlowVelocity()), Conditioner()))
    assert [hint_widths(factor) for factor in (1, 4, 16)] == [(16,), (16, 32, 96), (16, 32, 96, 256, 256)]
    assert len(hint_widths(2 ** (len(sd_vae().widths) - 1))) == 4
    with pytest.raises(ValueError, match="not 3 times"):
        hint_widths(3)
