"""The training loop learns, speaks, stops when asked, survives a bad step, and refuses what it cannot do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from toy.modality import PointModality
from toy.nursery import digest
from toy.recipes.points import Points

from core.data.order import BatchSharding, OrderedDataset
from core.model import Metadata
from core.progress import StoppedError
from core.recipe import Recipe, build, load
from core.train.ema import Constant, Power
from core.train.logger import read as read_log
from core.train.loop import steps, train
from core.train.monitor import BINS, held_out_loss
from core.train.run import Run
from core.train.state import State, newest, prepare
from core.weights.checkpoint import CheckpointError, read, read_metadata
from tests.support.runs import quiet

TOY = ("toy",)


def recipe(steps: int = 20, parts: int = 1, dropout: float = 0.1) -> Recipe:
    return build("toy.recipes.points.circle", {"steps": steps, "parts": parts, "dropout": dropout}, TOY)


def loop(made: Recipe) -> tuple[State, Callable[[int], None]]:
    """The state of a run, and a function that makes some steps."""
    accelerator = Accelerator(cpu=True)
    state = prepare(made, accelerator)
    shares = BatchSharding(made.training.batch, parts=made.training.parts)
    walk = steps(made.training, state, accelerator, OrderedDataset(made.data()[0], made.training.seed), shares)

    def go(count: int) -> None:
        for _ in range(count):
            next(walk)

    return state, go


def test_it_learns_the_circle() -> None:
    training = replace(recipe().training, batch=64, steps=400, lr=1e-2, ema={"ema": Constant(0.99)})
    made = replace(build("toy.recipes.points.circle", {"width": 48, "dropout": 0.0}, TOY), training=training)
    state, go = loop(made)
    before = sum(held_out_loss(state, Points(24), training).bins) / BINS
    go(400)
    after = sum(held_out_loss(state, Points(24), training).bins) / BINS
    assert after < 0.5 * before
    with state.ema.swapped():
        sampling = replace(made.sampling, steps=16, guidance=1.0)
        samples = replace(made, sampling=sampling).model(state.system.eval()).draw(0, range(400))
    radius = samples.norm(dim=1)
    assert 0.85 < radius.mean() < 1.15 and radius.std() < 0.45  # unit noise: 1.25 and 0.66
    upper = (samples[:, 1] > 0) == (torch.arange(400) % 2 == 1)
    assert upper.double().mean() > 0.9


def test_accumulated_parts_are_the_whole_batch() -> None:
    ends = []
    for parts in (1, 4):
        state, go = loop(recipe(parts=parts, dropout=0.0))
        go(20)
        ends.append(dict(state.system.named_parameters()))
    assert all(torch.allclose(value, ends[1][name], atol=1e-6) for name, value in ends[0].items())


def test_a_step_that_is_not_finite_is_skipped_and_counted() -> None:
    state, go = loop(recipe())
    go(3)
    parameter = state.parameters[0]
    hook = parameter.register_hook(lambda gradient: gradient * float("nan"))
    before = [value.clone() for value in state.parameters]
    moments = state.adam.state[parameter]["exp_avg"].clone()
    go(1)
    hook.remove()
    assert all(torch.equal(value, old) for value, old in zip(state.parameters, before))
    assert torch.equal(state.adam.state[parameter]["exp_avg"], moments)
    assert (int(state.skipped), state.step, int(state.adam.state[parameter]["step"])) == (1, 4, 3)
    go(1)
    assert int(state.skipped) == 1
    assert not any(torch.equal(value, old) for value, old in zip(state.parameters, before))


def test_held_out_losses_are_comparable() -> None:
    state, go = loop(recipe())
    go(2)
    first = held_out_loss(state, Points(24), recipe().training)
    torch.manual_seed(1)
    assert first == held_out_loss(state, Points(24), recipe().training)
    assert len(first.bins) == BINS and len(first.losses) == 24 and all(value > 0 for value in first.bins + first.losses)
    assert state.system.training


def test_a_run_speaks_and_its_checkpoint_samples(tmp_path: Path) -> None:
    shown: dict[str, Tensor] = {}

    def watch(path: Path, samples: Sequence[Tensor], settings: Metadata) -> None:
        shown[path.name] = torch.stack(list(samples))
        assert settings["recipe"] == "toy.recipes.points.circle"

    made = replace(recipe(), modality=PointModality(watch))
    last = train(
        made,
        Run(
            tmp_path,
            log_every=5,
            save_every=5,
            validate_every=10,
            sample_every=10,
            sample_count=6,
            tensorboard=True,
            cpu=True,
        ),
    )
    assert [path.name for path in sorted(last.parent.iterdir())] == [f"step-{n:08d}.safetensors" for n in (15, 20)]
    log = read_log(tmp_path)
    assert [event["step"] for event in log if "loss" in event] == [5, 10, 15, 20]
    assert [event["step"] for event in log if "held_out" in event] == [10, 20]
    first = next(event for event in log if "loss" in event)
    assert first["lr"] == pytest.approx(made.training.rate(4, 4 / 20)) and first["samples"] == 40
    assert any((tmp_path / "tensorboard").iterdir())
    assert list(shown) == ["step-00000010.txt", "step-00000020.txt"]
    loaded = load(last, packages=TOY)
    assert torch.equal(loaded.draw(0, range(6)), shown["step-00000020.txt"])
    assert read_metadata(last)["samples"] == 160


def test_several_averages_are_kept(tmp_path: Path) -> None:
    made = recipe()
    made = replace(made, training=replace(made.training, ema={"short": Power(0.05), "long": Power(0.1)}))
    last = train(made, quiet(tmp_path))
    short, long = (load(last, name, TOY).system.state_dict() for name in ("short", "long"))
    assert not torch.equal(short["denoiser.net.layers.0.weight"], long["denoiser.net.layers.0.weight"])
    assert load(last, packages=TOY).system.state_dict().keys() == short.keys()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_keeps_a_checkpoint_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    def interrupt(path: Path, samples: Sequence[Tensor], settings: Metadata) -> None:
        os.kill(os.getpid(), number)

    made, before = replace(recipe(), modality=PointModality(interrupt)), signal.getsignal(number)
    with pytest.raises(StoppedError, match="stopped at step 7"):
        train(made, replace(quiet(tmp_path / "stopped"), sample_every=7))
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["step-00000007.safetensors"]
    assert signal.getsignal(number) == before
    ends = [train(recipe(), quiet(tmp_path / name)) for name in ("stopped", "whole")]
    assert digest(ends[0]) == digest(ends[1])


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    last = train(recipe(), quiet(tmp_path))
    before = digest(last)
    assert train(recipe(), quiet(tmp_path)) == last == newest(tmp_path)
    assert digest(last) == before


def test_a_budget_ends_the_run_with_no_learning_rate_left(tmp_path: Path) -> None:
    ticks = iter(range(10**6))

    def clock() -> float:
        return float(next(ticks))

    made = recipe(steps=10**6)
    made = replace(made, training=replace(made.training, seconds=25.0, clock=clock))
    last = train(made, replace(quiet(tmp_path), log_every=1))
    rates = [event["lr"] for event in read_log(tmp_path) if "loss" in event]
    assert len(rates) == read_metadata(last)["step"] == 25
    assert rates[-1] == pytest.approx(made.training.lr / 25) and rates[5:] == sorted(rates[5:], reverse=True)


def test_another_run_in_the_folder_is_not_gone_on_with(tmp_path: Path) -> None:
    train(recipe(), quiet(tmp_path))
    for other, message in (
        (recipe(dropout=0.3), "arguments"),
        (replace(recipe(), training=replace(recipe().training, seed=1)), "seed 0, not 1"),
        (replace(recipe(), training=replace(recipe().training, batch=4)), "batch 8, not 4"),
    ):
        with pytest.raises(CheckpointError, match=message):
            train(other, quiet(tmp_path))


def test_a_damaged_checkpoint_is_not_gone_on_with(tmp_path: Path) -> None:
    last = train(recipe(), quiet(tmp_path))
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        train(recipe(), quiet(tmp_path))


def test_broken_data_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="example 7 of the data contains NaN"):
        train(replace(recipe(), data=lambda: (Points(broken=True), None)), quiet(tmp_path))
    with pytest.raises(ValueError, match="empty"):
        train(replace(recipe(), data=lambda: (Points(0), None)), quiet(tmp_path))


def test_nothing_of_the_run_changes_what_is_learned(tmp_path: Path) -> None:
    loud = Run(
        tmp_path / "loud",
        workers=1,
        log_every=3,
        save_every=4,
        validate_every=6,
        sample_every=0,
        tensorboard=False,
        cpu=True,
    )
    assert digest(train(recipe(), loud)) == digest(train(recipe(), quiet(tmp_path / "quiet")))


def test_weights_are_those_of_the_average(tmp_path: Path) -> None:
    """A model opens with the average that is stored, which is that of the weights after every step."""
    profile, made = Power(0.1), recipe(steps=6)
    made = replace(made, training=replace(made.training, ema={"ema": profile}))
    last = train(made, replace(quiet(tmp_path), save_every=1, keep=None))
    stored = read(last)
    assert {name.split("/")[0] for name in stored} == {"model", "ema", "optimizer", "skipped"}
    name = "denoiser.net.layers.0.weight"
    average = torch.zeros(())
    for step, path in enumerate(sorted(last.parent.iterdir()), start=1):
        weight = read(path)[f"model/{name}"]
        average = profile.decay(step) * average + (1 - profile.decay(step)) * weight
    torch.testing.assert_close(stored[f"ema/ema/{name}"], average)
    assert not torch.allclose(average, stored[f"model/{name}"], atol=1e-4)
    for chosen, prefix in ((None, "ema/ema/"), ("ema", "ema/ema/"), ("model", "model/")):
        opened = load(last, chosen, TOY).system.state_dict()
        for key, value in opened.items():
            assert torch.equal(value, stored[prefix + key]), (chosen, key)


def test_each_training_has_its_own_precision_and_threads(tmp_path: Path) -> None:
    seen: list[int] = []

    def end(name: str, precision: str, threads: int | None = None) -> str:
        made = recipe()
        training = replace(made.training, precision=precision, threads=threads)
        modality = PointModality(lambda path, x, settings: seen.append(torch.get_num_threads()))
        watch = replace(made, training=training, modality=modality)
        return digest(train(watch, replace(quiet(tmp_path / name), sample_every=7)))

    before = torch.get_num_threads()
    plain = end("plain", "no")
    assert end("bf16", "bf16", before + 1) != plain and seen[0] == before and seen[-1] == before + 1
    assert end("again", "no") == plain and torch.get_num_threads() == before
