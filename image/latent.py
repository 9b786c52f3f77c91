"""Latent diffusion's two stages as one run: the autoencoder is trained first, or taken from a file.

langevin train ldm --preset tiny                              both stages
langevin train ldm --preset tiny --autoencoder runs/ae        the second, in the latents of a trained autoencoder
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from core.codec import Latents
from core.data.dataset import Dataset
from core.recipe import Initialize, Recipe, build, read_header, restore
from core.systems.autoencoder import AutoencoderTraining
from core.systems.diffusion import Diffusion
from core.systems.system import System
from core.train.loop import train
from core.train.run import Run
from core.train.state import newest, time_spent
from core.weights.checkpoint import CheckpointError, fill, read

MEASURED = 2000  # examples from which the latents' mean and deviation are measured
SMALL_AUTOENCODER, TINY_AUTOENCODER = "image.recipes.autoencoder.small", "image.recipes.autoencoder.tiny"
OWN_AUTOENCODER = "image.recipes.autoencoder.own"
SHARE = 0.25  # of the time of a run that its autoencoder may take
PIXELS = 2**18  # of the pictures that are encoded at once


def from_autoencoder(autoencoder: str, first: Recipe, share: float = SHARE) -> Initialize:
    """Initialize a run from the autoencoder of a checkpoint or a run's folder, or else train ``first``.

    Then shift and scale of the latents are measured. ``first`` comes from ``build``, or its checkpoint would not open;
    share: of the time until the run's deadline, where it has one, that training the autoencoder may take.
    """
    if not first.name:
        raise ValueError("the recipe of the autoencoder has no name: make it by build()")

    def start(system: System, run: Run) -> None:
        if not isinstance(system, Diffusion) or not isinstance(system.codec, Latents):
            raise ValueError("only latent diffusion is initialized from an autoencoder")
        path = Path(autoencoder) if autoencoder else train(first, stage_of(run, share))
        path = newest(path) or path if path.is_dir() else path
        fill(system.codec.autoencoder, open_autoencoder(path).autoencoder.state_dict(), path)
        system.codec.measure(encoded_examples(first.data()[0], system.codec))

    return start


def stage_of(run: Run, share: float) -> Run:
    """The part of a run that trains its autoencoder, with its share of the time: the sessions before this one count."""
    folder, deadline = run.folder / "autoencoder", run.deadline
    if deadline is not None:
        now, spent = time.monotonic(), time_spent(run.folder)
        deadline = min(deadline, now + share * (spent + deadline - now) - spent)
    return replace(run, folder=folder, deadline=deadline, stage="autoencoder", sample_every=0, tensorboard=False)


def open_autoencoder(path: Path) -> AutoencoderTraining:
    """The averaged autoencoder of a checkpoint. Raises CheckpointError where there is none."""
    metadata = read_header(path)
    recipe = build(metadata["recipe"], metadata["arguments"])
    name = next(iter(metadata["averages"]))
    system = restore(recipe.system, read(path, f"ema/{name}/"), path, metadata["format"])
    if not isinstance(system, AutoencoderTraining):
        raise CheckpointError(f"{path} is of {metadata['recipe']}, not of an autoencoder: give one's checkpoint")
    return system


@torch.no_grad()
def encoded_examples(data: Dataset, codec: Latents) -> torch.Tensor:
    """The codec's moments of the first examples of the data."""
    count = min(MEASURED, len(data))
    batch = max(1, PIXELS // math.prod(data.get([0])["x"].shape[2:]))
    parts = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
    return torch.cat([codec.moments(data.get(part)["x"]) for part in parts])
