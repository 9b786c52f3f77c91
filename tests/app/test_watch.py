"""`langevin watch` shows what a log says: of a run that goes on, has ended, was stopped or killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.watch import Follower, Tail
from core.train.status import LOG
from tests.support.commands import Command, environment, wait_for

NOW = 1_000_000.0


def write(folder: Path, *events: dict[str, Any], mode: str = "a") -> None:
    """Add events to a log."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open(mode) as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def session(process: int, stage: str = "training", steps: int = 100, step: int = 0) -> dict[str, Any]:
    place = {"process": process, "host": socket.gethostname()}
    return {"step": step, "time": NOW, "stage": stage, "steps": steps, "progress": 0.0, "deadline": None, **place}


def loss(step: int, seconds: float) -> dict[str, Any]:
    return {"step": step, "time": NOW + seconds, "loss": 1 / step, "samples_per_second": 50.0, "progress": step / 100}


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_view_has_all_that_a_person_wants(tmp_path: Path) -> None:
    write(tmp_path, session(os.getpid()), loss(10, 10.0), {"step": 20, "held_out": 0.5}, loss(30, 30.0))
    write(tmp_path, {"step": 30, "held_out": 0.75}, {"step": 30, "sheet": "samples/step-30.png"})
    follower = Follower(tmp_path)
    list(follower.news())
    (status,) = follower.stages()
    assert follower.running() and status.left(NOW + 30) == pytest.approx(70.0)
    first, figures, sheet = status.view(NOW + 40)
    assert " 30 %" in first and "training: step 30/100, 1:00 left, until " in first
    assert figures == "loss 0.0333, held-out loss 0.7500 (best 0.5000 at step 20), 50 samples/s"
    assert sheet == f"last sheet: {tmp_path}/samples/step-30.png"


def test_a_finished_run_is_shown_and_not_waited_for(run_folder: Path, command: Command) -> None:
    status, out, _ = command("watch", run_folder)
    assert status == 0 and out.splitlines()[-1] == "training: done at step 3"
    assert "loss" in out.splitlines()[0]


def test_a_killed_run_is_not_waited_for(tmp_path: Path, command: Command, gone: int) -> None:
    write(tmp_path, session(gone), loss(10, 10.0))
    status, out, _ = command("watch", tmp_path)
    assert status == 0 and "killed at step 10" in out.splitlines()[-1]


def test_once_shows_a_run_that_goes_on(tmp_path: Path, command: Command) -> None:
    write(tmp_path / "autoencoder", session(os.getpid(), "autoencoder"), loss(100, 9.0), {"step": 100, "end": "done"})
    part = {"step": 0, "time": NOW + 20, "part": "encoding the data", "done": 5, "total": 20}
    write(tmp_path, session(os.getpid()), part)
    status, out, _ = command("watch", tmp_path, "--once")
    lines = out.splitlines()
    assert status == 0 and lines[0].startswith("autoencoder: done, 100 steps; loss 0.0100")
    assert " 25 %" in lines[1] and "encoding the data 5/20" in lines[1]


def test_a_run_between_two_stages_goes_on(tmp_path: Path, gone: int) -> None:
    for process, goes_on in ((os.getpid(), True), (gone, False)):
        stage = tmp_path / str(goes_on) / "autoencoder"
        write(stage, session(process, "autoencoder"), loss(100, 9.0), {"step": 100, "end": "done"})
        follower = Follower(stage.parent)
        list(follower.news())
        assert follower.running() == goes_on


def test_a_log_that_a_resumed_run_has_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    write(tmp_path, session(1), loss(10, 10.0), loss(20, 20.0))
    tail = Tail(tmp_path / LOG)
    assert [event["step"] for event in tail.news()] == [0, 10, 20] and tail.news() == []
    with (tmp_path / LOG).open("a") as file:
        file.write('{"step": 30, "lo')
    assert tail.news() == []
    write(tmp_path / "new", session(1), loss(10, 10.0), session(1, step=10))
    (tmp_path / "new" / LOG).replace(tmp_path / LOG)
    assert [event["step"] for event in tail.news()] == [0, 10, 10] and tail.status.step == 10


def test_a_log_of_before_is_shown(tmp_path: Path, command: Command) -> None:
    write(tmp_path, {"step": 10, "loss": 0.5, "samples_per_second": 5.0})
    status, out, _ = command("watch", tmp_path)
    assert status == 0 and "loss 0.5000" in out and "older version" in out


def test_what_is_no_run_is_refused(tmp_path: Path, command: Command) -> None:
    status, _, err = command("watch", tmp_path)
    assert status == 2 and "give the folder of a run" in err


def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:
    write(tmp_path, session(os.getpid()), loss(10, 10.0))
    words = [sys.executable, "-m", "app.main", "watch", str(tmp_path)]
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(words, env=environment(), stdout=out, stderr=-1, text=True)
    wait_for(lambda: "step 10/100: loss 0.1000" in (tmp_path / "out").read_text(), process)
    write(tmp_path, loss(20, 20.0))
    wait_for(lambda: "step 20/100: loss 0.0500, 50 samples/s, 1:20 left" in (tmp_path / "out").read_text(), process)
    write(tmp_path, {"step": 20, "time": NOW + 21, "end": "stopped"})
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "out").read_text().splitlines()[-1] == "training: stopped at step 20"
