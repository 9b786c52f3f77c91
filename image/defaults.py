"""What image recipes have in common: their data, how samples are asked for and shown, augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from core.data.dataset import Batch
from core.random import Stream, TrainingRNG
from core.recipe import Ask, Recipe, Sampling, Training, Understand
from core.systems.diffusion import Diffusion
from image.data import ImageArray, Subset, digits, open_images, split
from image.judging import judged
from image.sheet import save_sheet

Images = ImageArray | Subset
Parts = Callable[[], tuple[Images, Images]]  # the training and the held-out part, read when called


def files(data: str, size: int, channels: int = 3) -> Parts:
    """The images of a folder, of class folders or of an .npz file, cropped to a square of ``size``."""
    return lambda: split(open_images(Path(data), size, channels))


def real_digits() -> tuple[Images, Images]:
    """Scikit-learn's real handwritten digits, 8 x 8 with one channel."""
    return digits()


def pictures(
    system: Callable[[], Diffusion],
    shape: tuple[int, int, int],
    data: Parts,
    sampling: Sampling,
    training: Training,
    classes: int = 0,
) -> Recipe:
    """A recipe whose samples are images (C, H, W) in [-1, 1], of one of ``classes`` if there are any."""
    recipe = Recipe(system, shape, sampling, training, data, show=show, evaluate=judged(data))
    if classes == 0:
        return recipe
    return dataclasses.replace(recipe, ask=in_turn(classes), understand=typed_classes(classes))


def show(path: Path, samples: Tensor, settings: Mapping[str, object]) -> None:
    """Write samples (N, C, H, W) as a PNG sheet with the settings in its metadata."""
    save_sheet(path, samples, dict(settings))


def in_turn(classes: int) -> Ask:
    """Sample i is asked to be of class i mod ``classes``."""
    return lambda seed, samples: {"label": torch.tensor([number % classes for number in samples])}


def typed_classes(classes: int) -> Understand:
    """Classes as a person types them: "3", or "0,1,2" in turn."""

    def understand(text: str, count: int) -> Mapping[str, Tensor]:
        words = text.split(",")
        if not all(word.strip().isdecimal() and int(word) < classes for word in words):
            raise ValueError(f"'{text}' asks for no class: give one of 0 to {classes - 1}, or several as 0,1,2")
        asked = [int(word) for word in words]
        return {"label": torch.tensor([asked[i % len(asked)] for i in range(count)])}

    return understand


def flip(batch: Batch, rng: TrainingRNG) -> Batch:
    """Mirror half of the images, left to right."""
    x = batch["x"]
    mirrored = rng.uniform(Stream.AUGMENT) < 0.5
    return {**batch, "x": torch.where(mirrored[:, None, None, None], x.flip(-1), x)}
