"""Bad input gets one clear sentence, an exit status that is not 0, and leaves nothing half-written."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.support.commands import ROOT, Command, environment, refused

SMALL = ["train", "edm", "--preset", "small", "--size", "8", "--width", "64", "--hold-out", "0", "--show", "0"]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["trian"], ["'trian'", "'train'"]),
        (["train"], ["which recipe"]),
        (["train", "emd"], ["'emd'", "'edm'"]),
        (["train", "edm", "--preset", "tyni"], ["'tyni'", "'tiny'"]),
        (["train", "edm", "--widht", "8"], ["'--widht'", "'--width'"]),
        (["train", "edm", "--width", "many"], ["--width", "many"]),
        (["train", "edm", "--steps", "0"], ["step"]),
        (["train", "edm", "--batch", "-4"], ["batch"]),
        (["train", "edm", "--seconds", "0"], ["--seconds"]),
        (["train", "edm", "--precision", "fp8"], ["fp8"]),
        (["train", "edm", "--preset", "small"], ["--data"]),
        (["info", "nowhere/at/all.safetensors"], ["does not exist"]),
        (["solvers", "--only", "huen"], ["'huen'", "'heun'"]),
        (["list", "all"], ["'all'"]),
        (["demo", "--count", "3"], ["--count"]),
    ],
    ids=" ".join,
)
def test_words_that_mean_nothing(command: Command, typed: list[str], words: list[str]) -> None:
    refused(command(*typed), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sampler", "huen"], ["'huen'", "'heun'"]),
        (["--grid", "karas"], ["'karas'", "'karras'"]),
        (["--steps", "0"], ["at least 1"]),
        (["--steps", "-3"], ["at least 1"]),
        (["--count", "0"], ["--count"]),
        (["--guidance", "nan"], ["guidance"]),
        (["--prompt", "12"], ["'12'"]),
        (["--prompt", "a cat"], ["'a cat'"]),
        (["--average", "best"], ["'best'"]),
    ],
    ids=" ".join,
)
def test_requests_that_cannot_be_met(
    command: Command, run_folder: Path, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    refused(command("sample", run_folder, "--out", tmp_path / "x.png", *options), *words)
    assert not list(tmp_path.iterdir())


def test_checkpoints_that_are_none(command: Command, run_folder: Path, tmp_path: Path) -> None:
    whole = next(run_folder.glob("*/*.safetensors")).read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    refused(command("sample", cut), "cut short or damaged")
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(os.urandom(512))
    refused(command("sample", garbage), "not a safetensors file")
    pickled = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(2)}, pickled)
    refused(command("sample", pickled), "pickle")
    old = tmp_path / "model.ckpt"
    old.write_bytes(pickle.dumps({"weight": [1.0]}))
    refused(command("info", old) if old.exists() else (0, "", ""), "pickle")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(2)}, foreign)
    refused(command("sample", foreign), "not a checkpoint of Langevin")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(command("sample", empty), "no checkpoint")
    refused(command("replay", foreign), "does not say how it was made")


def test_data_that_cannot_be_used(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def train(data: Path) -> tuple[int, str, str]:
        return command(*SMALL, "--data", data, "--out", out)

    refused(train(tmp_path / "nowhere"), "does not exist")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(train(empty), "no images")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("hello")
    refused(train(tmp_path / "text"), "no images")
    np.savez(tmp_path / "nan.npz", images=np.full((4, 8, 8, 3), np.nan, np.float32))
    refused(train(tmp_path / "nan.npz"), "NaN")
    assert not out.exists() or not list(out.rglob("*.safetensors"))


def test_folders_that_cannot_be_written(command: Command, run_folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    refused(command("sample", run_folder, "--count", 1, "--steps", 1, "--out", blocked / "x.png"), "file")
    refused(command("train", "edm", "--width", 16, "--steps", 1, "--batch", 2, "--out", blocked / "run"), "file")
    assert blocked.read_text() == "in the way"


def test_a_full_disk_leaves_nothing_half_written(run_folder: Path, tmp_path: Path) -> None:
    """Files may not grow beyond 20 kB here, as on a disk that is full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words = ["train", "edm", "--width", "16", "--steps", "1", "--batch", "2", "--hold-out", "0", "--show", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "app.main", *words, "--out", str(tmp_path / "run")],
        cwd=ROOT,
        env=environment(),
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("langevin: ") and "free some space" in last
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob("*.safetensors*"))


@pytest.mark.slow
def test_interrupt_keeps_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = ["train", "edm", "--width", "16", "--batch", "4", "--hold-out", "0", "--show", "0", "--log", "1"]
    line = [sys.executable, "-m", "app.main", *words, "--steps", "120", "--out", str(tmp_path)]
    process = subprocess.Popen(line, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("step 5/"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert "stopped at step" in rest and "Traceback" not in rest
    assert len(list(tmp_path.glob("checkpoints/*.safetensors"))) == 1
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 1/120" not in done.stderr and "step 120/120" in done.stderr
