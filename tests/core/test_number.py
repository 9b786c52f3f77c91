"""Labels and numbers have slots of their own, through every operation on conditions and through guidance."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from core.cond import Cond
from core.condition import CombinedConditioner, Labels, NumberEmbedding, Numbers
from core.denoiser import Denoiser
from core.grid import trailing
from core.objective import Objective, flow
from core.prediction import X0, FlowVelocity
from core.prompts import Numbers as NumberPrompts
from core.random import SamplingRNG, TrainingRNG
from core.sample.heun import heun
from core.sample.step import run
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.systems.sampling import Sampling

BOTH = CombinedConditioner([Labels(300), Numbers((0.0, -1.0))])
BATCH = {"label": [299, 7], "number": [[0.5, 2.0], [1.5, 3.0]]}


def test_a_label_stays_whole_in_every_operation() -> None:
    cond, null = BOTH(BATCH), BOTH.null(2)
    half = cond.to(dtype=torch.bfloat16)
    assert half.label is not None and half.label.dtype == torch.int64 and half.label.tolist() == [299, 7]
    assert half.number is not None and half.number.dtype == torch.bfloat16
    dropped = cond.where(torch.tensor([True, False]), null)
    assert dropped.label is not None and dropped.label.tolist() == [299, 300]
    assert dropped.number is not None and dropped.number.tolist() == [[0.5, 2.0], [0.0, -1.0]]
    stacked = Cond.cat([cond, null])
    assert stacked.label is not None and stacked.label.tolist() == [299, 7, 300, 300]
    assert stacked.number is not None and stacked.number.shape == (4, 2)
    assert [field.name for field in dataclasses.fields(cond) if getattr(cond, field.name) is not None] == [
        "label",
        "number",
    ]


class Exact(nn.Module):
    """A network that says what it was asked for: label + 10 first number + 100 second number."""

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        assert cond.label is not None and cond.number is not None and not cond.label.is_floating_point()
        return (cond.label + cond.number @ torch.tensor([10.0, 100.0]))[:, None].expand_as(x)


def test_guidance_moves_away_from_the_null_of_both() -> None:
    system = Diffusion(Denoiser(Exact(), Flow(), X0()), BOTH)
    bound = system.guided(2.0).bind(BOTH(BATCH))
    wanted, null = torch.tensor([299 + 5 + 200.0, 7 + 15 + 300.0]), 300 - 100.0
    assert bound(torch.zeros(2, 1), torch.tensor(0.5))[:, 0].tolist() == (null + 2 * (wanted - null)).tolist()


def test_the_embedding_of_a_number_is_its_octaves_in_its_range() -> None:
    embedding = NumberEmbedding([(10.0, 30.0)], 5, bands=2)
    found = embedding.features((torch.tensor([[20.0]]) - embedding.low) / embedding.span)
    torch.testing.assert_close(found, torch.tensor([[0.5, 1.0, 0.0, 0.0, -1.0]]), atol=1e-6, rtol=0)  # pi/2 and pi
    cond = embedding({"number": [[10.0], [30.0]]})
    assert cond.vector is not None and cond.vector.shape == (2, 5)
    kept = cond.where(torch.tensor([True, False]), embedding.null(2)).vector
    assert kept is not None
    kept.sum().backward()
    assert embedding.none.grad is not None and embedding.none.grad.tolist() == [1.0] * 5  # of the second sample only


@pytest.mark.parametrize("number", [[1.0, 2.0], [[1.0]], [[1.0, 2.0, 3.0]]])
def test_numbers_of_another_shape_are_refused(number: object) -> None:
    for conditioner in (Numbers((0.0, 0.0)), NumberEmbedding([(0, 1), (0, 1)], 4)):
        with pytest.raises(ValueError, match="numbers must be"):
            conditioner({"number": number})
        with pytest.raises(ValueError, match="give 2 for each sample"):
            conditioner({})


def test_a_range_is_not_empty() -> None:
    with pytest.raises(ValueError, match="lowest lies below"):
        NumberEmbedding([(1.0, 1.0)], 4)


class Line(nn.Module):
    """A small network that reads ``cond.vector``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 + 16, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        assert cond.vector is not None
        out: Tensor = self.net(torch.cat([x, time[:, None], cond.vector], dim=1))
        return out


def test_a_model_learns_what_a_number_means() -> None:
    """Data are normal about the square of a number: samples asked for a number that was left out follow it."""
    system = Diffusion(
        Denoiser(Line(), Flow(), FlowVelocity()),
        NumberEmbedding([(-2, 2)], 16),
        objective=Objective(weight=flow, drop=0.1),
    )
    optimizer = torch.optim.Adam(system.parameters(), 5e-3)
    for step in range(500):
        number = torch.rand(256, 1) * 4 - 2
        number = torch.where((number - 1).abs() < 0.1, number + 0.3, number)  # never about 1
        batch = {"x": number**2 + 0.1 * torch.randn(256, 1), "number": number}
        loss = system.loss(batch, TrainingRNG(0, range(256 * step, 256 * step + 256))).mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prompts = NumberPrompts(((-2.0, 2.0),))
    for text, wanted in (("1", 1.0), ("-1.5", 2.25)):
        asked = prompts.parse(text, 100)
        made = run(system.sample(SamplingRNG(0, range(100)), (1,), asked, Sampling(heun, trailing, 20)))
        assert float(made.mean()) == pytest.approx(wanted, abs=0.25)


def test_what_is_typed_for_numbers() -> None:
    prompts = NumberPrompts(((0.0, 1.0), (10.0, 20.0)))
    assert prompts.parse("0.5, 12; 1, -3", 3)["number"].tolist() == [[0.5, 12.0], [1.0, -3.0], [0.5, 12.0]]
    for wrong in ("0.5", "a, b", "1, nan", ""):
        with pytest.raises(ValueError, match="give 2 numbers"):
            prompts.parse(wrong, 1)
    spread = prompts.default(0, range(4))["number"]
    assert spread.shape == (4, 2) and bool((spread[:, 0] >= 0).all() & (spread[:, 1] <= 20).all())
    assert torch.equal(spread[2:], prompts.default(0, [2, 3])["number"])  # sample i is sample i
