"""Training in tests: runs that print and write no more than they must, and what they leave behind."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from app.main import main
from core.recipe import build
from core.train.loop import train
from core.train.run import Run
from core.train.state import newest
from tests.support.source import ROOT

QUIET = ["--hold-out", "0", "--show", "0", "--log", "0", "--processes", "1", "--cpu"]


def quiet(folder: Path, log_every: int = 0, save_every: int = 0, validate_every: int = 0) -> Run:
    """A run on the CPU that shows nothing and writes no files of TensorBoard."""
    return Run(
        folder,
        log_every=log_every,
        save_every=save_every,
        validate_every=validate_every,
        sample_every=0,
        tensorboard=False,
        cpu=True,
    )


def trained(name: str, arguments: dict[str, object], folder: Path) -> Path:
    """The checkpoint of a recipe trained without held-out data."""
    made = build(name, arguments)
    return train(dataclasses.replace(made, data=lambda: (made.data()[0], None)), quiet(folder, log_every=1))


def checkpoint(folder: Path) -> Path:
    """The newest of a run's folder."""
    found = newest(folder)
    assert found is not None, f"no checkpoint in {folder}"
    return found


def text_to_image(folder: Path) -> None:
    """Trains for a few steps an autoencoder of captioned digits, in "ae", and a model of its code, in "ldm"."""
    short = ["--count", "64", "--batch", "4", "--steps", "1"]
    assert main(["train", "autoencoder", "--out", str(folder / "ae"), *short, *QUIET]) == 0
    sizes = ["--width", "16", "--text-width", "16", "--count", "64", "--batch", "8", "--steps", "4", "--lr", "2"]
    words = ["--autoencoder", str(folder / "ae"), *sizes]
    assert main(["train", "ldm", "--out", str(folder / "ldm"), *words, *QUIET]) == 0


def spread(folder: Path, *words: str) -> Path:
    """The checkpoints of a run over two processes."""
    paths = os.pathsep.join([str(ROOT / "tests" / "core"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "toy.ranks"]
    done = subprocess.run([*launch, str(folder), *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return folder / "checkpoints"
