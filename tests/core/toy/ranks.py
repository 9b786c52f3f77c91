"""One process of a run that is spread over several: ``torchrun --nproc-per-node 2 -m toy.ranks FOLDER``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from core.recipe import Recipe, build
from core.train import Run, train


def recipe() -> Recipe:
    """Batches of 4, without dropout, whose seeds are each process's own."""
    found = build("toy.recipes.points.circle", {"dropout": 0.0, "steps": 20}, ("toy",))
    return replace(found, training=replace(found.training, batch=4))


def run(folder: Path) -> Run:
    """A run that keeps its middle."""
    return Run(folder, save=10, hold_out=20, show=0, keep=None, tensorboard=False, cpu=True)


if __name__ == "__main__":
    train(recipe(), run(Path(sys.argv[1])))
