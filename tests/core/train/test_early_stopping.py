"""A run that overfits ends early with its best model: the same after a stop, and on two processes."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator
from torch import Tensor
from toy.modality import PointModality
from toy.nursery import digest
from toy.recipes.points import Points

from core.data.dataset import Dataset
from core.model import Metadata
from core.progress import StoppedError
from core.recipe import Recipe, build, load
from core.train import monitor
from core.train.early_stopping import Best, from_metadata, has_risen, is_lower
from core.train.logger import read as read_log
from core.train.loop import train
from core.train.run import Run
from core.train.state import newest, prepare
from core.weights.checkpoint import read_metadata
from tests.support.runs import quiet, spread

TOY = ("toy",)
EVERY = 20  # steps between two measurements
STEPS = 400


def recipe(patience: float | None = 0.2, modality: PointModality = PointModality()) -> Recipe:
    return replace(build("toy.recipes.points.few", {"steps": STEPS, "patience": patience}, TOY), modality=modality)


def run(folder: Path) -> Run:
    return quiet(folder, save_every=50, validate_every=EVERY)


def held_out(folder: Path) -> dict[int, float]:
    return {event["step"]: event["held_out"] for event in read_log(folder) if "held_out" in event}


def names(folder: Path) -> list[int]:
    return [int(path.stem.split("-")[1]) for path in sorted((folder / "checkpoints").iterdir())]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    train(recipe(), run(folder))
    return folder


def test_it_ends_early_and_the_best_is_its_model(ended: Path) -> None:
    losses, last = held_out(ended), newest(ended)
    best, end = min(losses, key=losses.__getitem__), max(losses)
    assert last is not None and names(ended)[-1] == best
    assert EVERY < best <= end - 0.2 * STEPS and end < STEPS
    assert losses[end] > 1.01 * losses[best]
    metadata = read_metadata(last)
    assert (metadata["step"], metadata["ended"], metadata["progress"]) == (best, end, 1.0)
    kept = from_metadata(metadata["best"])
    assert kept is not None and kept.step == best and kept.loss == pytest.approx(losses[best])
    assert load(last, packages=TOY).metadata["step"] == best


def test_its_weights_are_those_of_that_step(ended: Path, tmp_path: Path) -> None:
    best = names(ended)[-1]
    plain = train(recipe(None), replace(run(tmp_path), save_every=best, keep=None))
    assert digest(plain.parent / f"step-{best:08d}.safetensors") == digest(newest_of(ended))
    assert plain.stem == f"step-{STEPS:08d}" and "best" not in read_metadata(plain)


def newest_of(folder: Path) -> Path:
    found = newest(folder)
    assert found is not None
    return found


def test_one_line_reports_it_and_a_finished_run_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[int] = []
    modality = PointModality(lambda path, objects, settings: shown.append(int(str(settings["step"]))))
    made = recipe(modality=modality)
    last = train(made, replace(run(tmp_path), sample_every=10**6, sample_count=4))
    best, end = read_metadata(last)["step"], read_metadata(last)["ended"]
    assert shown == [best]  # the last sheet is of the model that is kept
    words = (
        f"the held-out loss was lowest at step {best}; training ended at step {end}, and the model is of step {best}"
    )
    assert sum(words in line for line in capsys.readouterr().err.splitlines()) == 1
    assert [event["kept_step"] for event in read_log(tmp_path) if "kept_step" in event] == [best]
    before = digest(last), last.stat().st_mtime_ns, len(read_log(tmp_path))
    assert train(made, run(tmp_path)) == last
    assert (digest(last), last.stat().st_mtime_ns, len(read_log(tmp_path))) == before
    assert shown == [best]


def stop_at(step: int) -> Callable[[Path, Sequence[Tensor], Metadata], None]:
    def draw(path: Path, objects: Sequence[Tensor], settings: Metadata) -> None:
        if settings["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return draw


@pytest.mark.parametrize("after", [-EVERY, EVERY])
def test_a_stopped_run_ends_the_same(ended: Path, tmp_path: Path, after: int) -> None:
    """Also where the best lies before the stop."""
    where = names(ended)[-1] + after
    with pytest.raises(StoppedError, match=f"stopped at step {where}"):
        train(recipe(modality=PointModality(stop_at(where))), replace(run(tmp_path), sample_every=where))
    last = train(recipe(), run(tmp_path))
    assert digest(last) == digest(newest_of(ended)) and held_out(tmp_path) == held_out(ended)
    for name in ("step", "ended", "best"):
        assert read_metadata(last)[name] == read_metadata(newest_of(ended))[name]


def test_the_best_of_a_whole_run_is_kept(ended: Path, tmp_path: Path) -> None:
    """Stopped while its last loss is measured, it is measured when the run goes on."""
    made, calls = recipe(1.0), 0

    class Interrupting:
        def __len__(self) -> int:
            return len(Points(24))

        def get(self, indices: Sequence[int]) -> dict[str, Tensor]:
            nonlocal calls
            calls += 1
            if calls == 63 * STEPS // EVERY - 3:  # 24 examples 21 times, in batches of 8
                os.kill(os.getpid(), signal.SIGTERM)
            return Points(24).get(indices)

    def data() -> tuple[Dataset, Dataset]:
        return made.data()[0], Interrupting()

    with pytest.raises(StoppedError, match=f"stopped at step {STEPS}"):
        train(replace(made, data=data), run(tmp_path))
    assert names(tmp_path)[-1] == STEPS and read_metadata(newest_of(tmp_path))["ended"] == 0
    last = train(made, run(tmp_path))
    assert read_metadata(last)["ended"] == STEPS and digest(last) == digest(newest_of(ended))
    assert max(held_out(tmp_path)) == STEPS and train(made, run(tmp_path)) == last


def test_patience_changes_nothing_where_the_loss_falls(tmp_path: Path) -> None:
    made = build("toy.recipes.points.circle", {"steps": 40, "dropout": 0.0}, TOY)
    patient = replace(made, training=replace(made.training, patience=0.1))
    ends = [
        train(each, quiet(tmp_path / name, validate_every=4)) for each, name in ((made, "plain"), (patient, "patient"))
    ]
    assert digest(ends[0]) == digest(ends[1]) and read_metadata(ends[1])["ended"] == 40
    assert train(patient, quiet(tmp_path / "patient", validate_every=4)) == ends[1]


def test_two_processes_agree(ended: Path, tmp_path: Path) -> None:
    checkpoints = spread(tmp_path, "few")
    found = read_metadata(sorted(checkpoints.iterdir())[-1])
    expected = read_metadata(newest_of(ended))
    assert (found["step"], found["ended"]) == (expected["step"], expected["ended"])


def test_few_examples_are_measured_often() -> None:
    counts: list[int] = []

    class Counting(Points):
        def get(self, indices: Sequence[int]) -> dict[str, Tensor]:
            counts.append(len(indices))
            return super().get(indices)

    for patience, times in ((None, 1), (0.2, 21)):
        made = recipe(patience)
        found = monitor.held_out_loss(prepare(made, Accelerator(cpu=True)), Counting(24), made.training)
        assert sum(counts) == 24 * times and len(found.losses) == 24
        assert sum(found.losses) / 24 == pytest.approx(sum(found.bins) / monitor.BINS, rel=0.2)
        counts.clear()


def noisy(shift: float, deviation: float, count: int = 200, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [1 + 0.1 * index + shift + chance.gauss(0, deviation) for index in range(count)]


def test_noise_is_no_rise() -> None:
    """The losses of examples differ a hundred times as much as those of two steps, which does not matter."""
    best = Best(10, 0.1, tuple(noisy(0.0, 0.0)))
    whole = best.loss
    assert not any(has_risen(noisy(0.0, 2.0, seed=seed), best) for seed in range(20))
    assert not has_risen(noisy(0.02 * whole, 4.0, seed=1), best)  # within three standard errors
    assert not has_risen(noisy(0.009 * whole, 0.01), best)  # certain, and too small
    assert has_risen(noisy(0.02 * whole, 0.5), best)
    assert has_risen(noisy(float("nan"), 0.0), best) and not has_risen([1.0], None)
    assert not has_risen([100.0], best)


def test_the_lowest_counts_by_however_little() -> None:
    best = Best(10, 0.1, (1.0, 3.0))
    assert is_lower([1.0, 2.999], best) and not is_lower([1.0, 3.0], best) and is_lower([5.0, 5.0], None)
    assert not is_lower([float("nan"), 0.0], None)
    assert from_metadata(best.metadata()) == best and from_metadata(None) is None


@pytest.mark.parametrize("patience", [0.0, -0.1, 1.5])
def test_patience_is_a_share(patience: float) -> None:
    with pytest.raises(ValueError, match="patience is a share"):
        recipe(patience)
