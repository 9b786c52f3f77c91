"""A modality is one folder: that of examples/own_modality is put beside core, and every command knows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.weights.checkpoint import read_metadata

ROOT = Path(__file__).parents[1]


# One process for all commands: importing torch for each takes longer than they do.
SERVER = """
import contextlib, io, json, sys
from app.main import main
for line in sys.stdin:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            status = main(json.loads(line))
        except SystemExit as stop:
            status = int(stop.code or 0)
    print(json.dumps([status, out.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class House:
    """A folder with core, the command and one domain more, and a process that runs commands in it."""

    folder: Path
    process: subprocess.Popen[str]

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    for package in ("core", "app", "image", "langevin"):
        (folder / package).symlink_to(ROOT / package)
    (folder / "tides").symlink_to(ROOT / "examples" / "own_modality" / "tides")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    line = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        line, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield House(folder, process)


def langevin(house: House, *words: str, status: int = 0) -> str:
    assert house.process.stdin is not None and house.process.stdout is not None
    print(json.dumps(words), file=house.process.stdin, flush=True)
    found, printed = json.loads(house.process.stdout.readline())
    assert found == status, printed
    return str(printed)


def rows(path: Path) -> list[list[float]]:
    return [[float(value) for value in line.split(",")[1:]] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("system", ["tides", "tides_ar"])
def test_a_folder_is_all_that_a_modality_needs(house: House, system: str) -> None:
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
    measured = [line.split() for line in langevin(house, "evaluate", system, "--count", "8").splitlines()]
    assert measured[0] == ["samples", "real"] and measured[1][0] == "range" and float(measured[1][2]) > 0
    assert "high water" in langevin(house, "tide-table", f"{system}-plain.csv")
    assert "tide-table" in langevin(house)


def test_its_edits_are_operations(house: House) -> None:
    langevin(house, "train", "tides", "--out", "edited", "--steps", "10", "--show", "0")
    langevin(house, "sample", "edited", "--count", "1", "--out", "day.csv")
    assert "raise" in langevin(house, "edit", "--help")
    langevin(house, "edit", "raise", "edited", "day.csv", "--by", "3", "--out", "raised.csv")
    before, after = rows(house / "day.csv")[0], rows(house / "raised.csv")[0]
    assert sum(after) > sum(before)
    assert "the same" in langevin(house, "replay", "raised.csv")
    assert "has no inpaint" in langevin(house, "edit", "inpaint", "edited", "day.csv", "--mask", "m", status=2)
    assert "--size is for models of" in langevin(house, "sample", "edited", "--size", "8", status=2)
    refusal = langevin(house, "convert", "edited", "folder", status=2)
    assert "modality tides" in refusal and not (house / "folder").exists()
