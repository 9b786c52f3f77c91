"""`langevin train --data`: planned, trained, measured, gone on with, and refused in one sentence."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import evaluation, own
from app.own import Elapsed, read_elapsed, seconds_of
from core.fit import plan as planning
from core.recipe import read_header
from core.train.logger import read as read_log
from tests.support.commands import Command, refused
from tests.support.runs import checkpoint

SHORT = ["--steps", "3", "--width", "16", "--depth", "1", "--batch", "4"]
ALONE = ["--processes", "1", "--cpu"]
SILENT = ["--show", "0", "--hold-out", "0"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of 12 x 12 in two class folders."""
    home = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (home / name).mkdir()
        for index in range(20):
            Image.fromarray(chance.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(home / name / f"{index}.png")
    return home


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """The same with captions, in one folder."""
    home = tmp_path_factory.mktemp("captioned")
    for path in pictures.rglob("*.png"):
        name = f"{path.parent.name}-{path.stem}"
        (home / f"{name}.png").write_bytes(path.read_bytes())
        (home / f"{name}.txt").write_text(f"a {path.parent.name} numbered {path.stem}")
    return home


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement of milliseconds, an evaluation of few samples, and a process that has only begun."""
    began = time.time()
    monkeypatch.setattr(evaluation, "COUNT", 20)
    monkeypatch.setattr(own, "LEAST", 4.0)
    monkeypatch.setattr(planning, "MEASURING", 0.02)
    monkeypatch.setattr(planning, "started", lambda: began)


def wide(path: Path) -> list[str]:
    """Where the files of a folder lie in it."""
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def test_a_dry_run_says_what_it_would_choose_and_writes_nothing(
    command: Command, pictures: Path, captioned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    status, shown, _ = command("train", "edm", "--data", pictures, "--time", "2m", "--dry-run", "--out", out, *ALONE)
    assert status == 0 and not out.exists()
    for words in (
        "training examples  36",
        "processes          1",
        "size 12 x 12, channels 3",
        "width",
        "batch",
        "M parameters",
        "evaluation         ends 0:02:00 after the start",
    ):
        assert words in shown, shown
    assert "Next:" not in shown
    status, shown, _ = command(
        "train", "ldm", "--data", captioned, "--time", "300", "--width", "16", "--dry-run", "--out", out, *ALONE
    )
    assert status == 0 and not out.exists()
    names = [line.split("  ")[0] for line in shown.splitlines()]
    assert names.index("autoencoder") < names.index("ldm") < names.index("evaluation")


def test_a_run_is_trained_measured_and_gone_on_with(command: Command, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "edm", "--data", pictures, "--out", out, *SHORT, *ALONE, *SILENT]
    status, shown, errors = command(*words)
    assert status == 0, errors
    path = checkpoint(out)
    assert str(path) in shown and f"Next: langevin sample {out}" in shown
    header = read_header(path)
    assert header["recipe"] == "image.recipes.edm.own" and header["arguments"]["classes"] == ["cat", "dog"]
    assert header["arguments"]["steps"] == 3 and header["arguments"]["size"] == [12, 12]
    assert {"plan.json", "clock.json", "evaluation.json"} <= set(wide(out))
    found = json.loads((out / "evaluation.json").read_text())
    assert found["figures"]["samples"] == found["settings"]["count"] == 20, found
    assert found["advice"] and all(sentence in shown for sentence in found["advice"])
    clock = json.loads((out / "clock.json").read_text())
    assert clock["since"] is None and 0 < clock["used"] < 120
    # Again: nothing is planned or trained, and the time goes on.
    plan, events, when = (out / "plan.json").read_text(), read_log(out), path.stat().st_mtime_ns
    status, _, errors = command(*words)
    assert status == 0, errors
    assert (out / "plan.json").read_text() == plan and checkpoint(out) == path and path.stat().st_mtime_ns == when
    assert [event for event in read_log(out) if "loss" in event] == [event for event in events if "loss" in event]
    assert json.loads((out / "clock.json").read_text())["used"] > clock["used"]
    # Asked for otherwise: refused, and nothing changes.
    steps = [word if word != "3" else "4" for word in words]
    for other, why in (
        ([*words, "--time", "5m"], "seconds was None, not 300"),
        (steps, "given was"),
        ([*words, "--lr", "0.1"], "given was"),
    ):
        refused(command(*other), "holds a run that was asked for otherwise", why, "or give another --out")
    assert (out / "plan.json").read_text() == plan and checkpoint(out) == path


def test_a_run_that_was_stopped_goes_on(command: Command, pictures: Path, tmp_path: Path) -> None:
    """A folder with a plan and a checkpoint half way, as a kill leaves it."""
    out = tmp_path / "run"
    words = ["train", "flow", "--data", pictures, "--out", out, *SHORT, *ALONE, *SILENT, "--save", "1", "--keep", "0"]
    assert command(*words)[0] == 0
    last = checkpoint(out)
    complete = last.read_bytes()
    last.unlink()
    (out / "evaluation.json").unlink()
    assert checkpoint(out) != last
    assert command(*words)[0] == 0
    assert checkpoint(out) == last and len(last.read_bytes()) == len(complete)
    assert (out / "evaluation.json").is_file()


def test_both_stages_are_trained(
    command: Command, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "EVALUATION", (0.08, 1.0, 180.0))
    monkeypatch.setattr(planning, "STARTING", 0.0)
    out = tmp_path / "run"
    small = ["--latent-width", "16", "--text-width", "16", "--time", "20s"]
    status, _, errors = command("train", "ldm", "--data", captioned, "--out", out, *SHORT, *small, *ALONE, *SILENT)
    assert status == 0, errors
    first, second = read_header(checkpoint(out / "autoencoder")), read_header(checkpoint(out))
    assert first["recipe"] == "image.recipes.autoencoder.own" and second["recipe"] == "image.recipes.ldm.own"
    assert first["arguments"]["width"] == second["arguments"]["latent_width"] == 16
    assert second["arguments"]["autoencoder"] == str(out / "autoencoder")
    assert second["arguments"]["steps"] == 3 and second["arguments"]["length"] == 6
    assert json.loads((out / "evaluation.json").read_text())["figures"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5400), (" 2H ", 7200), ("1.5m", 90), ("1h1m1s", 3661)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "15 m", "m", "-5m", "5d", "1:30", "1e3", "0", "0m", "nan"])
def test_other_times_are_refused(command: Command, pictures: Path, tmp_path: Path, text: str) -> None:
    out = tmp_path / "run"
    result = command("train", "edm", "--data", pictures, f"--time={text}", "--out", out)
    refused(result, "--time")
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["edm", "--preset", "own"], "--data"),
        (["edm", "--preset", "own", "--time", "5m"], "--data"),
        (["edm", "--preset", "tiny", "--time", "5m"], "--time and --dry-run are for the preset own"),
        (["edm", "--time", "5m"], "--time and --dry-run are for the preset own"),
        (["edm", "--dry-run"], "--time and --dry-run are for the preset own"),
        (["edm", "--data", "nowhere", "--time", "5m"], "nowhere"),
        (["edm", "--data", "{data}", "--time", "5s"], "too short to train anything here"),
        (["edm", "--data", "{data}", "--batch", "5", "--processes", "2"], "2 processes cannot share a batch of 5"),
        (["edm", "--data", "{data}", "--size", "1", "2", "3", "--time", "5m"], "height and width"),
        (["ldm", "--data", "{captioned}", "--size", "3", "--time", "5m"], "use edm"),
    ],
)
def test_what_cannot_be_is_refused(
    command: Command, pictures: Path, captioned: Path, tmp_path: Path, words: list[str], why: str
) -> None:
    out = tmp_path / "run"
    asked = [word.format(data=pictures, captioned=captioned) for word in words]
    refused(command("train", *asked, "--cpu", "--out", out), why)
    assert not out.exists() or wide(out) == []


def test_data_without_captions_train_no_model_of_them(command: Command, pictures: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in (pictures / "cat").glob("*.png"):
        (bare / path.name).write_bytes(path.read_bytes())
    refused(command("train", "ldm", "--data", bare, "--time", "5m", "--cpu"), "has no captions", "train edm")


# The clock of a run, over all commands that go on with it.


def test_the_clock_counts_what_earlier_commands_took(tmp_path: Path) -> None:
    assert read_elapsed(tmp_path, 1000.0) == Elapsed(tmp_path, 0.0, 1000.0)
    (tmp_path / "clock.json").write_text('{"used": 20.0, "since": null}')
    assert read_elapsed(tmp_path, 1000.0).used == 20
    # Killed: the last thing that was written, in any stage, is the last that is known.
    (tmp_path / "clock.json").write_text('{"used": 20.0, "since": 500.0}')
    for name, written in (("log.jsonl", 510), ("autoencoder/log.jsonl", 530)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (written, written))
    assert read_elapsed(tmp_path, 1000.0).used == 50
    (tmp_path / "clock.json").write_text('{"used": 20.0}')
    with pytest.raises(ValueError, match="delete it, and the run has all of its time again"):
        read_elapsed(tmp_path, 1000.0)
