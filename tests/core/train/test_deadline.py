"""A run with a deadline ends at it, its learning rate at its end and its last sheet made, also when it was resumed."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor
from toy.modality import PointModality
from toy.recipes.points import Net

from core.cond import Cond
from core.model import Metadata
from core.progress import StoppedError
from core.recipe import Recipe, build
from core.train.logger import read as read_log
from core.train.loop import train
from core.train.run import Run
from core.train.state import newest, time_spent
from core.weights.checkpoint import read_metadata
from tests.support.runs import quiet, spread


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a first run imports takes nothing of the time of those here."""
    train(build("toy.recipes.points.circle", {"steps": 1}, ("toy",)), quiet(tmp_path_factory.mktemp("first")))


def recipe(pause: float = 0.0) -> Recipe:
    """Steps without end, and sheets that take a while."""

    def draw(path: Path, objects: Sequence[Tensor], settings: Metadata) -> None:
        time.sleep(pause)
        path.touch()

    made = build("toy.recipes.points.circle", {"steps": 10**6}, ("toy",))
    return replace(made, modality=PointModality(draw), training=replace(made.training, warmup=0))


def within(run: Run, seconds: float) -> Run:
    return replace(run, deadline=time.monotonic() + seconds)


def rates(folder: Path) -> list[float]:
    return [event["lr"] for event in read_log(folder) if "loss" in event]


def test_it_ends_at_the_deadline_with_no_learning_rate_left(tmp_path: Path) -> None:
    run, made = within(quiet(tmp_path, log_every=1), 2.0), recipe()
    last = train(made, run)
    assert run.deadline is not None and -2.0 < time.monotonic() - run.deadline < 5.0
    found = rates(tmp_path)
    assert len(found) == read_metadata(last)["step"] > 20 and found == sorted(found, reverse=True)
    assert found[0] > 0.95 * made.training.lr and found[-1] < 0.05 * made.training.lr
    middle = [event["lr"] for event in read_log(tmp_path) if "loss" in event and event["progress"] < 0.5]
    assert middle[-1] == pytest.approx(0.5 * made.training.lr, rel=0.1)


def test_the_last_sheet_is_made_in_the_time(tmp_path: Path) -> None:
    run = within(replace(quiet(tmp_path, validate_every=10**6), sample_every=10**6, sample_count=4), 7.0)
    last = train(recipe(pause=0.2), run)
    assert run.deadline is not None and -3.0 < time.monotonic() - run.deadline < 5.0
    sheets = [int(path.stem.split("-")[1]) for path in sorted((tmp_path / "samples").iterdir())]
    step = read_metadata(last)["step"]
    assert len(sheets) == 2 and sheets[-1] == step and sheets[0] < 0.3 * step  # one early, which says what they cost
    assert [event["step"] for event in read_log(tmp_path) if "held_out" in event][-1] == step


def test_sheets_take_a_tenth_of_the_time(tmp_path: Path) -> None:
    run = within(replace(quiet(tmp_path), sample_every=1, sample_count=4), 4.0)
    train(recipe(pause=0.05), run)
    assert 2 <= len(list((tmp_path / "samples").iterdir())) <= 10


def test_a_sheet_that_takes_too_long_has_fewer_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, sizes = Net.forward, list[int]()

    def slow(self: Net, x: Tensor, at: Tensor, cond: Cond = Cond()) -> Tensor:
        if not self.training:
            time.sleep(0.001 * len(x))
        return forward(self, x, at, cond)

    monkeypatch.setattr(Net, "forward", slow)
    modality = PointModality(lambda path, objects, settings: sizes.append(len(objects)))
    run = within(replace(quiet(tmp_path), sample_every=10**6), 6.0)
    train(replace(recipe(), modality=modality), run)
    assert run.deadline is not None and time.monotonic() - run.deadline < 5.0
    assert len(sizes) == 2 and 4 <= sizes[0] == sizes[1] < 64


def test_a_stopped_run_has_the_time_that_is_left(tmp_path: Path) -> None:
    run = replace(quiet(tmp_path, log_every=1), sample_every=300, sample_count=4)
    made, began = recipe(), time.monotonic()

    def stop(path: Path, objects: Sequence[Tensor], settings: Metadata) -> None:
        if time.monotonic() > began + 1.5:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    with pytest.raises(StoppedError) as raised:
        train(replace(made, modality=PointModality(stop)), replace(run, sample_every=5, deadline=began + 4))
    assert raised.value.number == signal.SIGTERM and time.monotonic() - began < 15
    spent = time_spent(tmp_path)
    assert spent == pytest.approx(time.monotonic() - began, abs=3)
    first = len(rates(tmp_path))
    again = within(run, 4 - spent)
    train(made, again)
    assert again.deadline is not None and -2.0 < time.monotonic() - again.deadline < 5.0
    found = rates(tmp_path)
    jumps = [(a - b) / made.training.lr for a, b in itertools.pairwise(found)]
    assert len(found) > first and max(map(abs, jumps)) < 0.15 and found[-1] < 0.05 * made.training.lr
    ended = newest(tmp_path)
    assert train(made, within(run, 0.1)) == ended  # what is left after the end is too little to go on


def test_no_time_is_no_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no time left"):
        train(recipe(), within(quiet(tmp_path), -1))


def test_two_processes_end_at_the_same_step(tmp_path: Path) -> None:
    checkpoints = spread(tmp_path / "two", "deadline")
    (last,) = checkpoints.glob("step-*.safetensors")
    assert float((tmp_path / "two" / "late").read_text()) < 1.0
    found = rates(tmp_path / "two")
    assert len(found) == read_metadata(last)["step"] > 10 and found[-1] < 0.1 * found[0]
    # Between two talks progress is extrapolated, by half a second of the four at most.
    assert all(after < before + 0.2 * found[0] for before, after in itertools.pairwise(found))
