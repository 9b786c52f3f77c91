"""What a data set is: examples by index, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from core.random import TrainingRNG

Batch = Mapping[str, Any]
Augment = Callable[[Batch, TrainingRNG], Batch]  # takes its randomness from Stream.AUGMENT of the draw


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

    def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> Batch:
        """``get`` with the randomness of Stream.AUGMENT of the draw, a row for each index."""


def check(batch: Batch, indices: Sequence[int]) -> Batch:
    """The batch itself. Raises ValueError where it has no "x", nor its moments, or a number is not finite."""
    if not isinstance(batch.get("x"), Tensor) and not isinstance(batch.get("moments"), Tensor):
        raise ValueError("a data set must return batches with a tensor under 'x'")
    for name, value in batch.items():
        # One pass without a temporary: a sum is finite unless a term is not (or the terms are absurdly large).
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.sum().isfinite()):
            bad = ~value.isfinite().flatten(1).all(1) if value.ndim > 1 else ~value.isfinite()
            if bool(bad.any()):
                example = indices[int(bad.nonzero()[0])]
                raise ValueError(f"'{name}' of example {example} of the data contains NaN or infinity: clean the data")
    return batch
