"""A modality is one folder: that of examples/own_modality is put beside core, and every command knows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.weights.checkpoint import read_metadata

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    for package in ("core", "app", "image", "langevin"):
        (folder / package).symlink_to(ROOT / package)
    (folder / "tides").symlink_to(ROOT / "examples" / "own_modality" / "tides")
    return folder


def langevin(house: Path, *words: str, status: int = 0) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(house)}
    line = [sys.executable, "-m", "app.main", *words]
    done = subprocess.run(line, cwd=house, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def rows(path: Path) -> list[list[float]]:
    return [[float(value) for value in line.split(",")[1:]] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("system", ["tides", "tides_ar"])
def test_a_folder_is_all_that_a_modality_needs(house: Path, system: str) -> None:
    assert "heights of the sea" in langevin(house, "list")
    langevin(house, "train", system, "--out", system, "--steps", "20", "--show", "20")
    checkpoint = next((house / system).glob("checkpoints/*.safetensors"))
    assert read_metadata(checkpoint)["recipe"] == f"tides.recipes.{system}.tiny"
    assert len(rows(house / system / "samples" / "step-00000020.csv")) == 64
    for name, more in (("plain", ()), ("spring", ("--spring", "2"))):
        langevin(house, "sample", system, "--count", "3", *more, "--out", f"{system}-{name}.csv")
    plain, spring = (rows(house / f"{system}-{name}.csv") for name in ("plain", "spring"))
    assert [len(row) for row in plain] == [24] * 3
    assert spring[1][5] == pytest.approx(2 * plain[1][5], abs=2e-3)
    assert "the same" in langevin(house, "replay", f"{system}-spring.csv")
    assert "range, real" in langevin(house, "evaluate", system, "--count", "8")
    assert "high water" in langevin(house, "tide-table", f"{system}-plain.csv")
    assert "tide-table" in langevin(house)


def test_its_edits_are_operations(house: Path) -> None:
    langevin(house, "train", "tides", "--out", "edited", "--steps", "10", "--show", "0")
    langevin(house, "sample", "edited", "--count", "1", "--out", "day.csv")
    assert "raise" in langevin(house, "edit", "--help")
    langevin(house, "edit", "raise", "edited", "day.csv", "--by", "3", "--out", "raised.csv")
    before, after = rows(house / "day.csv")[0], rows(house / "raised.csv")[0]
    assert sum(after) > sum(before)
    assert "the same" in langevin(house, "replay", "raised.csv")
    assert "has no inpaint" in langevin(house, "edit", "inpaint", "edited", "day.csv", "--mask", "m", status=2)
    assert "--size is for models of" in langevin(house, "sample", "edited", "--size", "8", status=2)
