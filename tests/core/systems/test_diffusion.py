"""A whole model: sample i is sample i, guidance moves away from the null, and the loss is a function of the draw."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from toy.recipes.points import Net, Points, circle

from core.codec import Standardize
from core.cond import Cond
from core.denoiser import Denoiser
from core.grid import trailing
from core.objective import Objective, flow
from core.prediction import FlowVelocity
from core.random import SamplingRNG, TrainingRNG
from core.recipe import draw
from core.sample.heun import heun
from core.sample.step import run
from core.schedule import Flow
from core.systems.diffusion import Diffusion


@pytest.fixture
def system() -> Diffusion:
    torch.manual_seed(0)
    found = circle(dropout=0.0).system().eval()
    for parameter in found.parameters():
        nn.init.normal_(parameter, std=0.3)
    return found


def test_sample_does_not_change_with_batch_or_order(system: Diffusion) -> None:
    recipe = circle()
    whole = draw(recipe, system, 5, range(12))
    assert torch.allclose(draw(recipe, system, 5, [7, 2]), whole[[7, 2]], atol=1e-5)
    assert torch.equal(SamplingRNG(5, [7, 2]).start((2,)), SamplingRNG(5, range(12)).start((2,))[[7, 2]])
    assert not torch.allclose(draw(recipe, system, 6, range(12)), whole, atol=1e-2)


def test_loss_does_not_change_with_the_cut_of_the_batch(system: Diffusion) -> None:
    batch = Points().get(range(8))
    whole = system.loss(batch, TrainingRNG(1, range(8)))
    parts = [
        system.loss({name: value[rows] for name, value in batch.items()}, TrainingRNG(1, rows))
        for rows in (range(4), range(4, 8))
    ]
    assert torch.equal(torch.cat([part.t for part in parts]), whole.t)
    assert torch.allclose(torch.cat([part.each for part in parts]), whole.each, rtol=1e-5)
    assert torch.allclose((parts[0].mean + parts[1].mean) / 2, whole.mean, rtol=1e-5)


def test_dropped_conditions_are_the_null(system: Diffusion) -> None:
    batch, everything = Points().get(range(8)), TrainingRNG(1, range(8))
    system.objective.drop = 1.0
    dropped = system.loss(batch, everything).each
    null = torch.full((8,), 2)
    system.objective.drop = 0.0
    assert torch.equal(dropped, system.loss(batch | {"label": null}, everything).each)
    assert not torch.equal(dropped, system.loss(batch, everything).each)


def test_share_of_dropped_conditions() -> None:
    kept = Objective(drop=0.2).keep(TrainingRNG(0, range(5000))).double().mean()
    assert abs(kept.item() - 0.8) < 4 * (0.16 / 5000) ** 0.5


class Mean(nn.Module):
    """A flow's network that knows its data to be one point for each condition."""

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        assert cond.vector is not None
        return (x - cond.vector) / time[:, None]


def test_sampling_starts_from_noise_and_ends_at_the_data() -> None:
    recipe = circle()
    conditioner = recipe.system().conditioner
    nn.init.normal_(conditioner.table.weight)
    conditioner.table.weight = nn.Parameter(conditioner.table.weight[:, :2])
    codec = Standardize(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    system = Diffusion(Denoiser(Mean(), Flow(), FlowVelocity()), conditioner, codec, Objective(weight=flow))
    noise, label = SamplingRNG(0, range(3)), torch.tensor([0, 1, 1])
    steps = list(system.sample(noise, (2,), {"label": label}, sampler=heun, grid=trailing, steps=5))
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    wanted = conditioner.table.weight[label]
    assert torch.allclose(steps[-1].x, wanted, atol=1e-5)
    assert torch.allclose(system.decode(steps[-1].x), wanted * torch.tensor([3.0, 4.0]) + torch.tensor([1.0, 2.0]))
    guided = run(system.sample(noise, (2,), {"label": label}, sampler=heun, grid=trailing, steps=5, guidance=3.0))
    null = conditioner.table.weight[2]
    assert torch.allclose(guided, null + 3 * (wanted - null), atol=1e-4)


def test_an_unconditional_model_has_nothing_to_guide() -> None:
    with pytest.raises(ValueError, match="unconditional"):
        Diffusion(Denoiser(Net(8, 0.0), Flow(), FlowVelocity())).guided(2.0)
