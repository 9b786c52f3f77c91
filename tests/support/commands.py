"""The `langevin` command as tests run it, and what it says of bad input."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 120  # seconds
Command = Callable[..., tuple[int, str, str]]  # words -> exit status, stdout, stderr
ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Of a process that runs the command."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def refused(result: tuple[int, str, str], *words: str) -> None:
    """A command was: by exit status 2 and one sentence that has these words."""
    status, _, err = result
    assert status == 2
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("langevin: "), err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until something is so; fails where the process ended before, or it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.05)
