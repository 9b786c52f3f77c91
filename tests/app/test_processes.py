"""`langevin train --processes`: the same training, shared; one voice, one exit status."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app.training import Options, processes_for
from core.recipe import build
from core.train.logger import read as read_log
from core.weights.checkpoint import read
from tests.support.commands import wait_for

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "--width",
    "16",
    "--dropout",
    "0",
    "--batch",
    "8",
    "--show",
    "0",
    "--precision",
    "no",
    "--hold-out",
    "0",
]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "app.main", "train", "edm", "--out", str(folder), *OPTIONS, *words]
    return subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)


def test_two_processes_train_what_one_does_and_the_first_speaks(tmp_path: Path) -> None:
    both = [start(tmp_path / "2", "--processes", "2", "--steps", "4"), start(tmp_path / "1", "--steps", "4")]
    printed = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert printed[0][0].count("Next:") == 1 and printed[0][1].count("step 4/4") == 1
    name = "checkpoints/step-00000004.safetensors"
    shared, alone = read(tmp_path / "2" / name), read(tmp_path / "1" / name)
    assert shared.keys() == alone.keys()
    assert all(torch.allclose(shared[key], alone[key], rtol=0, atol=1e-4) for key in alone)  # Adam turns 1e-8 into 2e-5


def test_bad_input_is_reported_once(tmp_path: Path) -> None:
    process = start(tmp_path, "--processes", "2", "--lr", "-1")
    out, complaint = process.communicate()
    assert process.returncode == 2 and out == ""
    assert complaint.count("learning rate") == 1 and complaint.count("\n") == 1


def test_processes_know_of_each_other(tmp_path: Path) -> None:
    process = start(tmp_path, "--processes", "2", "--batch", "7")
    complaint = process.communicate()[1]
    assert process.returncode == 2 and "does not divide over 2 processes" in complaint


def test_a_stop_reaches_all_and_keeps_a_checkpoint(tmp_path: Path) -> None:
    process = start(tmp_path, "--processes", "2", "--steps", "100000", "--log", "1")
    wait_for(lambda: any("loss" in event for event in read_log(tmp_path)), process)
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped at step" in complaint
    assert len(list((tmp_path / "checkpoints").glob("step-*.safetensors"))) == 1


def test_a_preset_says_how_many_processes_where_cores_can_share_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(batch: int = 8, **typed: object) -> int:
        recipe = build("image.recipes.ldm.tiny", {"batch": batch})
        return processes_for(recipe, dataclasses.replace(Options(), cpu=True, **typed))

    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert count() == 2 and count(batch=7) == 1
    assert count(processes=1) == 1 and count(batch=7, processes=3) == 3
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert count() == 1
