"""A modality is a folder with data and recipes, as docs/architecture.md says: one is added, trained and sampled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from core.weights.checkpoint import read_metadata

ROOT = Path(__file__).parents[1]

RECIPE = '''
"""Tides: heights of the sea through a day."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.denoiser import Denoiser
from core.grid import karras
from core.nn.unet import UNet
from core.objective import EDMWeight, LogNormal, Objective
from core.prediction import F
from core.recipe import Recipe, Sampling, Training
from core.sample.heun import heun
from core.schedule import EDM
from core.systems.diffusion import Diffusion


class Heights:
    def __len__(self) -> int:
        return 64

    def get(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        hours = torch.arange(24) / 24 * 4 * math.pi
        return {"x": torch.stack([(hours + index).sin()[None] for index in indices])}


def write(path: Path, samples: Tensor, settings: Mapping[str, object]) -> None:
    path.write_text("\\n".join(",".join(f"{value:.3f}" for value in row[0]) for row in samples))


def tiny(width: int = 16, steps: int = 4) -> Recipe:
    """One day, every hour."""

    def system() -> Diffusion:
        net = UNet(1, 1, width, (1, 2), 1, (), dims=1, groups=8)
        denoiser = Denoiser(net, EDM(), F(0.7), lambda sigma: 250 * sigma.log())
        return Diffusion(denoiser, objective=Objective(LogNormal(), EDMWeight(0.7)))

    sampling = Sampling(heun, karras, steps=5)
    return Recipe(
        system, (1, 24), sampling, Training(8, steps), lambda: (Heights(), None), show=write, suffix=".csv"
    )
'''


def test_a_folder_is_all_that_a_modality_needs(tmp_path: Path) -> None:
    for package in ("core", "app", "image"):
        (tmp_path / package).symlink_to(ROOT / package)
    recipes = tmp_path / "sea" / "recipes"
    recipes.mkdir(parents=True)
    (tmp_path / "sea" / "__init__.py").touch()
    (recipes / "__init__.py").touch()
    (recipes / "tides.py").write_text(RECIPE)

    def langevin(*words: str) -> str:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
        line = [sys.executable, "-m", "app.main", *words]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "heights of the sea" in langevin("list")
    langevin("train", "tides", "--out", "run", "--width", "8")
    checkpoint = next(tmp_path.glob("run/checkpoints/*.safetensors"))
    assert read_metadata(checkpoint)["recipe"] == "sea.recipes.tides.tiny"
    for sampler in ("dpmpp_2m", "euler_ancestral"):
        langevin("sample", "run", "--count", "3", "--sampler", sampler, "--grid", "karras", "--out", f"{sampler}.csv")
        rows = (tmp_path / f"{sampler}.csv").read_text().splitlines()
        assert len(rows) == 3 and all(len(row.split(",")) == 24 for row in rows)
