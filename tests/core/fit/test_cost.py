"""What a step costs: found again exactly where a clock is made to say it, and counted exactly in bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.data.dataset import Dataset
from core.fit import cost
from core.fit.cost import Cost, _activations, measure
from core.objective import Losses
from core.random import TrainingRNG
from core.recipe import Recipe, Training, build
from core.systems.system import System
from core.train.precision import Precision

CPU = torch.device("cpu")


class Fixed:
    """Three examples, as numbers that are all alike."""

    def __len__(self) -> int:
        return 3

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        assert all(0 <= index < 3 for index in indices)
        return {"x": torch.ones(len(indices), 5), "caption": ["a"] * len(indices)}


class Linear(System):
    """A frozen layer and one that is trained; every loss takes what ``spend`` says."""

    def __init__(self, spend: Callable[[int], None] = lambda count: None) -> None:
        super().__init__()
        self.fixed, self.layer = nn.Linear(5, 5), nn.Linear(5, 2, bias=False)
        self.fixed.requires_grad_(False)
        self.spend = spend

    def loss(self, batch: Mapping[str, Any], rng: TrainingRNG, quantiles: Tensor | None = None) -> Losses:
        self.spend(len(batch["x"]))
        each = self.layer(self.fixed(batch["x"])).square().sum(1)
        return Losses(each.mean(), each, torch.ones_like(each))


def recipe_of(system: Callable[[], System]) -> Recipe:
    made = build("image.recipes.edm.tiny")
    return replace(made, system=system, training=Training(precision=Precision.NO))


def test_a_step_of_b_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 0.05 + 0.01 b seconds by a clock that stands still otherwise."""
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: now[0])
    monkeypatch.setattr(cost, "time", clock)

    def spend(count: int) -> None:
        now[0] += 0.05 + 0.01 * count

    found = measure(recipe_of(lambda: Linear(spend)), Fixed(), CPU, seconds=2.0)
    assert found.sample == pytest.approx(0.01) and found.step == pytest.approx(0.05)
    assert found.seconds(30) == pytest.approx(0.35)
    assert now[0] - 100 < 3.0  # about as long as was allowed


def test_what_larger_batches_do_not_cost_is_no_free_lunch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where 16 samples take as long as 4, as on an idle accelerator, a sample still costs something."""
    now = [0.0]
    monkeypatch.setattr(cost, "time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: now[0]))

    def spend(count: int) -> None:
        now[0] += 0.08

    found = measure(recipe_of(lambda: Linear(spend)), Fixed(), CPU, seconds=0.5)
    assert found.sample == pytest.approx(0.08 / 16 / 10) and found.step > 0


def test_parameters_and_memory_are_counted() -> None:
    found = measure(recipe_of(Linear), Fixed(), CPU, seconds=0.0)
    trained, frozen = 5 * 2, 5 * 5 + 5
    assert found.parameters == trained
    assert found.memory == 4 * (trained + frozen) + 16 * trained  # gradient, two moments and an average
    assert found.bytes(7) == found.memory + 7 * found.sample_memory
    # Of a sample are kept at least the input of the layer that is trained and its output, five numbers and two.
    assert 2 * 4 * (5 + 2) <= found.sample_memory <= 2 * 4 * (5 + 2) + 200


def test_activations_are_each_counted_once() -> None:
    weight = torch.ones(6, requires_grad=True)
    x = torch.ones(6)

    def step() -> None:
        y = x * weight  # keeps x; both factors of the next are y, which is kept once
        (y * y).sum().backward()

    # x and y, and the weight where autograd keeps it; each is 24 bytes, and as much again is allowed for.
    assert _activations(step) in (2 * 48, 2 * 72)


def test_a_larger_network_costs_more(tmp_path: Any) -> None:
    def at(width: int) -> Cost:
        made = build("image.recipes.edm.tiny", {"width": width})
        data: Dataset = made.data()[0]
        return measure(made, data, CPU, seconds=0.05)

    small, large = at(8), at(48)
    assert large.parameters > 20 * small.parameters and large.memory > 20 * small.memory
    assert large.sample_memory > 4 * small.sample_memory and large.seconds(64) > small.seconds(64)
