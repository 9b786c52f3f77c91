"""What image recipes have in common: their data, prompts and augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch

from core.data.dataset import Batch
from core.prompts import Classes, Unconditional
from core.random import Stream, TrainingRNG
from core.recipe import Recipe, Sampling, Training
from core.systems.diffusion import Diffusion
from image.data import Images, digits, open_parts
from image.evaluation import evaluator
from image.modality import MODALITY

TwoParts = Callable[[], tuple[Images, Images]]  # the training and the held-out part, read when called


def image_files(data: str, size: int | tuple[int, int], channels: int = 3) -> TwoParts:
    """The training and the held-out part of pictures of one's own, cropped to ``size``: see ``image.data``."""

    @cache
    def parts() -> tuple[Images, Images]:
        found = open_parts(Path(data), size, channels)
        return found.train, found.held_out

    return parts


def real_digits() -> tuple[Images, Images]:
    """Scikit-learn's real handwritten digits, 8 x 8 with one channel."""
    return digits()


def image_recipe(
    system: Callable[[], Diffusion],
    shape: tuple[int, int, int],
    data: TwoParts,
    sampling: Sampling,
    training: Training,
    classes: int | Sequence[str] = 0,
) -> Recipe:
    """A recipe whose samples are images (C, H, W) in [-1, 1], of one of ``classes``, a number or names, if any."""
    count, names = (classes, ()) if isinstance(classes, int) else (len(classes), tuple(classes))
    prompts = Classes(count, names) if count else Unconditional()
    return Recipe(system, shape, sampling, training, data, MODALITY, prompts, evaluate=evaluator(data))


def flip(batch: Batch, rng: TrainingRNG) -> Batch:
    """Mirror half of the images, left to right."""
    x = batch["x"]
    mirrored = rng.uniform(Stream.AUGMENT) < 0.5
    return {**batch, "x": torch.where(mirrored[:, None, None, None], x.flip(-1), x)}
