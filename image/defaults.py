"""What image recipes have in common: their data, prompts and augmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from core.data.dataset import Batch
from core.prompts import Classes, Unconditional
from core.random import Stream, TrainingRNG
from core.recipe import Recipe, Sampling, Training
from core.systems.diffusion import Diffusion
from image.data import ImageArray, Subset, digits, open_images, split
from image.evaluation import evaluator
from image.modality import MODALITY

Images = ImageArray | Subset
Parts = Callable[[], tuple[Images, Images]]  # the training and the held-out part, read when called


def image_files(data: str, size: int, channels: int = 3) -> Parts:
    """The images of a folder, of class folders or of an .npz file, cropped to a square of ``size``."""
    return lambda: split(open_images(Path(data), size, channels))


def real_digits() -> tuple[Images, Images]:
    """Scikit-learn's real handwritten digits, 8 x 8 with one channel."""
    return digits()


def image_recipe(
    system: Callable[[], Diffusion],
    shape: tuple[int, int, int],
    data: Parts,
    sampling: Sampling,
    training: Training,
    classes: int = 0,
) -> Recipe:
    """A recipe whose samples are images (C, H, W) in [-1, 1], of one of ``classes`` if there are any."""
    prompts = Classes(classes) if classes else Unconditional()
    return Recipe(system, shape, sampling, training, data, MODALITY, prompts, evaluate=evaluator(data))


def flip(batch: Batch, rng: TrainingRNG) -> Batch:
    """Mirror half of the images, left to right."""
    x = batch["x"]
    mirrored = rng.uniform(Stream.AUGMENT) < 0.5
    return {**batch, "x": torch.where(mirrored[:, None, None, None], x.flip(-1), x)}
