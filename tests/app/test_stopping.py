"""Ctrl-C and SIGTERM are acted upon soon in every stage, and the same command goes on in the right one."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.train.logger import read as read_log
from tests.support.commands import ROOT, environment, wait_for

SOON = 8.0  # seconds on a busy machine, where 2 are meant; each stage would last 30
EDM = ["--width", "16", "--dropout", "0", "--batch", "8", "--show", "0", "--hold-out", "0", "--precision", "no"]
ENDLESS = ["--steps", "100000", "--log", "1"]
LDM = ["--count", "64", "--width", "16", "--text-width", "16", "--batch", "8", "--log", "1", "--hold-out", "0"]


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "app.main", *map(str, words)]
    return subprocess.Popen(command, env=environment(), stdout=-1, stderr=-1, text=True, start_new_session=True)


def has_loss(folder: Path) -> Callable[[], bool]:
    """Whether a run has logged a loss."""
    return lambda: any("loss" in event for event in read_log(folder))


def complaint(process: subprocess.Popen[str]) -> list[str]:
    """What the command says at its end: not its log, nor what libraries warn of."""
    lines = process.communicate(timeout=60)[1].splitlines()
    assert not any("Traceback" in line for line in lines), lines
    return [line for line in lines if line.startswith("langevin: ") and "once more" not in line]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of a run that got a signal in each of its stages."""
    paths = os.pathsep.join([str(ROOT / "tests" / "core"), str(ROOT)])
    words = [sys.executable, "-m", "toy.stages", str(tmp_path_factory.mktemp("stages"))]
    done = subprocess.run(words, capture_output=True, text=True, env=environment() | {"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("stage", "status"),
    [
        ("arithmetic", 130),
        ("data", 143),
        ("first", 130),
        ("encoding", 143),
        ("step", 130),
        ("held_out", 143),
        ("sheet", 130),
        ("drawing", 143),
    ],
)
def test_a_signal_ends_each_stage_soon_and_the_same_command_goes_on(
    stages: dict[str, Any], stage: str, status: int
) -> None:
    found, seconds, half_written, same = stages[stage]
    assert found == status and seconds < SOON and half_written == 0 and same


@pytest.mark.slow
def test_two_processes_stop_in_the_stage_of_the_autoencoder_and_go_on_there(tmp_path: Path) -> None:
    stage = tmp_path / "autoencoder"

    def sessions() -> list[int]:
        """The step at which each session made its first."""
        events = itertools.pairwise(read_log(stage))
        return [one["step"] for one, other in events if "stage" in one and "loss" in other]

    for count, (number, status) in enumerate(((signal.SIGINT, 130), (signal.SIGTERM, 143)), start=1):
        process = start("train", "ldm", "--out", tmp_path, *LDM, "--processes", 2, "--cpu")
        wait_for(functools.partial(lambda count: len(sessions()) == count, count), process)
        process.send_signal(number)
        (line,) = complaint(process)
        assert process.returncode == status and "stopped at step" in line
    assert sessions()[0] == 0 < sessions()[1]
    assert [event["end"] for event in read_log(stage) if "end" in event] == ["stopped", "stopped"]
    assert not (tmp_path / "checkpoints").exists()


def test_an_evaluation_ends_in_one_line(run_folder: Path) -> None:
    process = start("evaluate", run_folder, "--count", 100_000)
    wait_for(lambda: "torch" in maps(process.pid), process)
    process.send_signal(signal.SIGTERM)
    assert complaint(process) == ["langevin: interrupted"] and process.returncode == 143


def maps(pid: int) -> str:
    """The libraries that a process has loaded."""
    return " ".join(each.path for each in psutil.Process(pid).memory_maps())


def test_workers_that_read_ahead_leave_stopping_to_the_run(tmp_path: Path) -> None:
    process = start("train", "edm", "--out", tmp_path, *EDM, *ENDLESS, "--processes", 1, "--workers", 1)
    wait_for(has_loss(tmp_path), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    (line,) = complaint(process)
    assert process.returncode == 130 and "stopped at step" in line


def test_processes_end_with_who_started_them(tmp_path: Path) -> None:
    process = start("train", "edm", "--out", tmp_path, *EDM, *ENDLESS, "--processes", 2)
    wait_for(has_loss(tmp_path), process)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.kill()
    process.communicate()
    assert psutil.wait_procs(children, timeout=20)[1] == []
    assert len(list((tmp_path / "checkpoints").glob("step-*.safetensors"))) == 1
    assert read_log(tmp_path)[-1]["end"] == "stopped"
