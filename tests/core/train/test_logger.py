"""The figures of a run's log: what they say is what happened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from core.data.order import BatchSharding, OrderedDataset
from core.recipe import build
from core.train.logger import peak_memory
from core.train.logger import read as read_log
from core.train.loop import steps, train
from core.train.state import prepare
from tests.support.runs import quiet

TOY = ("toy",)


def test_a_step_has_the_norm_of_its_gradient_before_it_is_clipped() -> None:
    made = build("toy.recipes.points.circle", {"steps": 3}, TOY)
    training = replace(made.training, clip=1e-4)
    accelerator = Accelerator(cpu=True)
    state = prepare(replace(made, training=training), accelerator)
    squares: list[Tensor] = []
    for parameter in state.parameters:
        parameter.register_hook(lambda gradient: squares.append(gradient.double().square().sum()))
    walk = steps(training, state, accelerator, OrderedDataset(made.data()[0], 0), BatchSharding(training.batch))
    for step in walk:
        assert float(step.gradient_norm) == pytest.approx(float(torch.stack(squares).sum().sqrt()), rel=1e-5)
        assert float(step.gradient_norm) > 1e-3
        squares.clear()


def test_a_line_of_the_log_says_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = build("toy.recipes.points.circle", {"steps": 4}, TOY)
    train(made, quiet(tmp_path, log_every=2))
    events = [event for event in read_log(tmp_path) if "loss" in event]
    assert [event["step"] for event in events] == [2, 4]
    for event in events:
        assert event["gradient_norm"] > 0
        assert event["seconds_per_step"] == pytest.approx(made.training.batch / event["samples_per_second"])
        assert 0 < event["peak_memory_gib"] * 2**30 <= peak_memory()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("step 4/4: loss ")
    assert all(word in line for word in ("gradient norm", "samples/s", "s a step", "GiB at most"))
