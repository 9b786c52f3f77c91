"""Augmentation that fits the data: whether mirrored pictures are like the others, and data sets with both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.dataset import Batch, DataError, Dataset, HasAugmentation, HasOrder, varies
from core.random import TrainingRNG, permutation

MOST = 2000  # pictures that are compared
FEWEST = 40  # from which anything can be concluded
SIDE = 12  # pixels of a picture when it is compared
RIDGE = 0.1  # of the kernel, in its own variance
TOLERANCE = 0.05  # of the share of pictures recognized, above one half
ERRORS = 2.0  # standard errors of that share that are chance

SIDES = re.compile(r"\b(left|right)(most|wards?|handed)?\b|\b(counter|anti)?-?clockwise\b", re.IGNORECASE)


def mirror_fits(data: Dataset, classes: Sequence[str] = (), seed: int = 0) -> bool:
    """Whether mirrored pictures, left to right, are like the others, so that a model may learn from both.

    classes: their names. They are not where captions or names speak of left and right, where classes are letters, and
    where a classifier that has not seen a picture recognizes which of its two versions is the original.
    """
    if any(SIDES.search(name) for name in classes) or _are_letters(classes):
        return False
    rows = permutation(seed, 0, len(data))[:MOST].tolist()
    batch = data.get(rows)
    if any(SIDES.search(caption) for caption in batch.get("caption", ())):
        return False
    x, labels = _small(batch["x"]), batch.get("label")
    _, first = np.unique(x.flatten(1).numpy(), axis=0, return_index=True)  # copies would recognize each other
    x, labels = x[first], None if labels is None else labels[first]
    if len(x) < FEWEST:
        return False
    return orientation_accuracy(x, labels) < 0.5 + max(TOLERANCE, ERRORS * 0.5 / len(x) ** 0.5)


def orientation_accuracy(x: Tensor, labels: Tensor | None = None) -> float:
    """The share of pictures (N, C, H, W) that a classifier trained on the others takes for originals, not mirrored.

    One half is chance. The classifier is kernel ridge regression to 1 for originals and -1 for mirrored pictures, so
    that its kernel is antisymmetric, k(x, y) - k(x, mirror y); pictures of one class (N,) count twice as much for each
    other. Leaving one out is exact and costs nothing (Rifkin and Lippert 2007, section 3).
    """
    mean = (x + x.flip(-1)).mean(0) / 2
    ours, mirrored = (x - mean).flatten(1), (x.flip(-1) - mean).flatten(1)
    near, far = torch.cdist(ours, ours).square(), torch.cdist(ours, mirrored).square()
    width = near.mean().clamp(min=1e-9) / 2
    kernel = (-near / width).exp() - (-far / width).exp()
    if labels is not None:
        kernel = kernel * (1 + (labels[:, None] == labels).float()) / 2
    ridge = RIDGE * kernel.diagonal().mean().clamp(min=1e-6)
    factor = torch.linalg.cholesky(kernel + ridge * torch.eye(len(x)))
    inverse = torch.cholesky_inverse(factor)
    left_out = 1 - inverse.sum(1) / inverse.diagonal()
    return float((left_out > 0).double().mean())


def _small(x: Tensor) -> Tensor:
    """Pictures with sides of at most SIDE pixels."""
    height, width = x.shape[-2:]
    return F.adaptive_avg_pool2d(x.float(), (min(SIDE, height), min(SIDE, width)))


def _are_letters(classes: Sequence[str]) -> bool:
    return len(classes) > 1 and all(len(name) == 1 and name.isalpha() for name in classes)


@dataclass(frozen=True)
class WithMirrored:
    """A data set twice as long: the pictures, then each of them mirrored, left to right.

    Latents of both versions can be encoded once, before training, where an augmentation would change the pixels later.
    Raises DataError for data with an order of their own, such as buckets.
    """

    data: Dataset

    def __post_init__(self) -> None:
        if isinstance(self.data, HasOrder):
            raise DataError("data with an order of their own cannot be doubled: mirror them with image.defaults.flip")

    def __len__(self) -> int:
        return 2 * len(self.data)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every picture."""
        return tuple(self.data.get([0])["x"].shape[1:])

    @property
    def random(self) -> bool:
        """Whether the pictures differ each time that they are met."""
        return varies(self.data)

    def get(self, indices: Sequence[int]) -> Batch:
        """The pictures at some indices, and what is known of them."""
        return self._mirrored(self.data.get(self._below(indices)), indices)

    def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> Batch:
        """The same, changed at random as the data below are."""
        if not isinstance(self.data, HasAugmentation):
            return self.get(indices)
        return self._mirrored(self.data.get_augmented(self._below(indices), rng), indices)

    def _below(self, indices: Sequence[int]) -> list[int]:
        return [index % len(self.data) for index in indices]

    def _mirrored(self, batch: Batch, indices: Sequence[int]) -> Batch:
        which = torch.tensor([index >= len(self.data) for index in indices])
        found: dict[str, Any] = dict(batch)
        for name in ("x", "control"):
            if name in found:
                found[name] = torch.where(which[:, None, None, None], found[name].flip(-1), found[name])
        if {"size", "crop", "target"} <= found.keys():
            found["crop"] = torch.where(which[:, None], _mirrored_crop(found), found["crop"])
        return found


def _mirrored_crop(batch: Batch) -> Tensor:
    """How much was cut off above and on the left (B, 2) of mirrored pictures, as they were scaled."""
    scaled = (batch["size"] * (batch["target"] / batch["size"]).amax(1, keepdim=True)).round()
    across = scaled[:, 1] - batch["target"][:, 1] - batch["crop"][:, 1]
    return torch.stack([batch["crop"][:, 0], across.clamp(min=0)], dim=1)
