"""What a data set is: examples by index, a batch at a time. What a batch holds is called the same in every domain:

    x                    what is diffused: grids (B, C, *grid), sequences and sets (B, N, D), as the codec takes them
    moments              what a codec has to say of x, in its place: see ``core.codec``
    valid                (B, N) bools: which positions of x exist
    caption              B texts
    label                (B,) whole numbers: the class
    number               (B, K) floats: levels, scores, ages
    size, crop, target   (B, 2) pixels, height and width: of a picture before it was scaled, above and left of its crop,
                         and of the crop
    control              (B, C, *grid) bytes: what is followed, such as edges

A domain may add its own; a list or tensor has a row for each example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from core.random import TrainingRNG

Batch = Mapping[str, Any]
Augment = Callable[[Batch, TrainingRNG], Batch]  # takes its randomness from Stream.AUGMENT of the draw


def _is_valid(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool and value.ndim == 2


def _is_label(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_floating_point() and value.ndim == 1


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 2


def _is_caption(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


# What some of a batch must be, and in words.
KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "valid": (_is_valid, "(B, N) bools"),
    "label": (_is_label, "(B,) whole numbers"),
    "number": (_is_number, "(B, K) floats"),
    "caption": (_is_caption, "texts"),
}


class DataError(ValueError):
    """A data set that cannot be used; the message says why and what to do."""


class Dataset(Protocol):
    """Examples by index, a batch at a time."""

    def __len__(self) -> int: ...

    def get(self, indices: Sequence[int]) -> Batch:
        """The examples at some indices: "x" (B, ...) and whatever conditioners look for, batched."""


@runtime_checkable
class HasOrder(Protocol):
    """A data set with an order of its own, such as one that fills each batch from one bucket of shapes."""

    def example_order(self, seed: int, positions: Sequence[int]) -> list[int]:
        """Which examples the positions of the run stand for: a function of the seed and the positions only."""


@runtime_checkable
class HasAugmentation(Protocol):
    """A data set whose augmentation happens while reading, such as crops before decoding."""

    @property
    def random(self) -> bool:
        """Whether ``get_augmented`` differs from ``get``, so that an example differs each time it is met."""

    def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> Batch:
        """``get`` with the randomness of Stream.AUGMENT of the draw, a row for each index."""


@dataclass(frozen=True)
class First:
    """The first ``most`` examples of a data set, in the order they have."""

    data: Dataset
    most: int

    def __len__(self) -> int:
        return min(self.most, len(self.data))

    def get(self, indices: Sequence[int]) -> Batch:
        """The examples at some indices."""
        return self.data.get(indices)


def varies(data: Dataset) -> bool:
    """Whether an example differs each time it is met."""
    return isinstance(data, HasAugmentation) and data.random


def changes_x(augment: Augment) -> bool:
    """Whether an augmentation acts on "x" itself, as it does unless an attribute ``changes_x`` is False."""
    return bool(getattr(augment, "changes_x", True))


def check(batch: Batch, indices: Sequence[int]) -> Batch:
    """The batch itself. Raises ValueError where it is not as it should be, or a number is not finite."""
    if not isinstance(batch.get("x"), Tensor) and not isinstance(batch.get("moments"), Tensor):
        raise ValueError("a data set must return batches with a tensor under 'x'")
    for name, value in batch.items():
        if isinstance(value, Tensor | list) and len(value) != len(indices):
            raise ValueError(f"'{name}' of a batch has {len(value)} rows for {len(indices)} examples: give one each")
        if name in KINDS and not KINDS[name][0](value):
            raise ValueError(f"'{name}' of a batch must be {KINDS[name][1]}")
        # One pass without a temporary: a sum is finite unless a term is not (or the terms are absurdly large).
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.sum().isfinite()):
            bad = ~value.isfinite().flatten(1).all(1) if value.ndim > 1 else ~value.isfinite()
            if bool(bad.any()):
                example = indices[int(bad.nonzero()[0])]
                raise ValueError(f"'{name}' of example {example} of the data contains NaN or infinity: clean the data")
    return batch
