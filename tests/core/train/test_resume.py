"""A run that is killed again and again and resumed ends with the bits of the unbroken run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parents[1]


def nursery(folder: Path, kills: int, workers: int, parts: int) -> dict[str, Any]:
    words = [sys.executable, "-m", "toy.nursery", str(folder), str(kills), str(workers), str(parts)]
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, Any], kills: int) -> None:
    whole, killed = found["digests"]
    assert whole == killed
    assert len(found["kills"]) == kills and len(set(found["kills"])) > kills / 3
    assert found["logs"][0] == found["logs"][1] and found["logs"][0]


def test_killed_and_resumed_with_workers_and_accumulation(tmp_path: Path) -> None:
    check(nursery(tmp_path, 4, workers=2, parts=2), 4)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "parts"), [(0, 1), (2, 2)])
def test_twenty_kills(tmp_path: Path, workers: int, parts: int) -> None:
    check(nursery(tmp_path, 20, workers, parts), 20)
