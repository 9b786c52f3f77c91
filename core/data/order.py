"""Data in an order that is a function of the position in the run, so that resuming needs nothing but the position.

Position n of the run is example ``order(epoch)[n mod length]`` of epoch ``n // length``. A step takes ``batch``
positions; each process takes its contiguous share, cut again into equal parts when gradients are accumulated:

    position = step * batch + rank * share + part * size + row
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from core.data.dataset import Augment, Batch, Dataset, HasAugmentation, HasOrder, check
from core.random import TrainingRNG, permutation


def example_order(data: Dataset, seed: int, positions: Sequence[int]) -> list[int]:
    """Which examples the positions stand for: the data's own order, or else a new permutation for each epoch."""
    if isinstance(data, HasOrder):
        return data.example_order(seed, positions)
    places = np.asarray(positions, dtype=np.int64)
    epochs = places // len(data)
    found = np.empty_like(places)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        found[here] = _order(seed, epoch, len(data))[places[here] % len(data)]
    listed: list[int] = found.tolist()
    return listed


@dataclass(frozen=True)
class BatchSharding:
    """Who takes which positions of a step. Raises ValueError unless the batch divides evenly."""

    batch: int
    ranks: int = 1
    rank: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.parts < 1:
            raise ValueError(f"a batch of {self.batch} in {self.parts} parts is nothing to train on: give at least 1")
        if self.batch % (self.ranks * self.parts):
            raise ValueError(
                f"a batch of {self.batch} does not divide over {self.ranks} processes x {self.parts} parts: "
                "change the batch or the number of parts"
            )

    def positions(self, step: int) -> list[range]:
        """This process's positions of a step, a range for each part."""
        size = self.batch // (self.ranks * self.parts)
        first = step * self.batch + self.rank * size * self.parts
        return [range(first + part * size, first + (part + 1) * size) for part in range(self.parts)]


@dataclass(frozen=True)
class OrderedDataset:
    """A dataset in its order of the run: ``self[positions]`` is the checked, augmented batch at these positions."""

    data: Dataset
    seed: int
    augment: Augment | None = None

    def __post_init__(self) -> None:
        if len(self.data) == 0:
            raise ValueError("the data set is empty: there is nothing to train on")

    def indices(self, positions: Sequence[int]) -> list[int]:
        """Which examples the positions stand for."""
        return example_order(self.data, self.seed, positions)

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        rows = self.indices(positions)
        rng = TrainingRNG(self.seed, positions)
        batch = check(
            self.data.get_augmented(rows, rng) if isinstance(self.data, HasAugmentation) else self.data.get(rows), rows
        )
        return batch if self.augment is None else self.augment(batch, rng)


# Two epochs, because a batch can straddle them.
@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return permutation(seed, epoch, length)


def stream(
    data: OrderedDataset, sharding: BatchSharding, start: int, workers: int = 0, pin: bool = False
) -> Iterator[list[Batch]]:
    """The batches of this process from step ``start`` on, without end: for each step a list of its parts.

    ``workers`` processes read ahead; the batches do not depend on their number.
    """
    if workers == 0:
        step = start
        while True:
            yield [data[positions] for positions in sharding.positions(step)]
            step += 1
    loader: Any = DataLoader(
        _MapStyle(data),
        sampler=_PositionsFrom(sharding, start),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_leave_stopping_to_the_run,
    )
    batches = iter(loader)
    while True:
        yield [next(batches) for _ in range(sharding.parts)]


def _leave_stopping_to_the_run(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal, and the run still needs its data to finish a step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class _PositionsFrom:
    """Ranges of positions from a step on."""

    sharding: BatchSharding
    start: int

    def __iter__(self) -> Iterator[range]:
        step = self.start
        while True:
            yield from self.sharding.positions(step)
            step += 1


class _MapStyle(torch.utils.data.Dataset[Batch]):
    """An ``OrderedDataset`` as torch's loader wants it."""

    def __init__(self, data: OrderedDataset) -> None:
        self.data = data

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        return self.data[positions]
