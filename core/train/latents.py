"""Data encoded once, before training, where the codec is costly: in memory where that is enough, else on the disk.

What is kept of an example is what its codec describes it by, such as the mean and the log-variance of its latents, so
that what is diffused is drawn each time from the same law as if it were encoded each time. Pictures that a data set or
an augmentation changes at random are encoded each time that they are met, for they never come twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.codec import Codec
from core.data.dataset import Arranged, Augment, Batch, Dataset, changes_x, random
from core.train.cache import Cached, latents, model_hash
from core.train.order import arrange

NUMBERS = 3 * 2**18  # of data that are encoded at once: 256 pictures of 32 x 32
SAMPLED = 8  # examples from which the size of the cache is estimated


@dataclass(frozen=True)
class Process:
    """Which of the processes of a run this is, and how it waits for all others."""

    rank: int = 0
    ranks: int = 1
    wait: Callable[[], None] = lambda: None


def encoded_once(
    data: Dataset,
    codec: Codec,
    augment: Augment | None,
    device: torch.device,
    folder: Path,
    memory: int,
    process: Process = Process(),
) -> Dataset:
    """The data with ``codec.describe(x)`` under "described" in place of "x", or as they are where that saves nothing.

    memory: bytes of descriptions that each process may have in memory; more of them lie in ``folder``, where a resumed
    run finds them.
    """
    if not codec.costly or len(data) == 0 or random(data) or (augment is not None and changes_x(augment)):
        return data

    def describe(x: Tensor) -> Tensor:
        with torch.no_grad():
            return codec.describe(x.to(device)).cpu()

    places = sorted({round(place) for place in torch.linspace(0, len(data) - 1, SAMPLED).tolist()})
    rows = [latents(describe)(data.get([place])) for place in places]
    largest = max(sum(value.nbytes for value in row.values() if isinstance(value, Tensor)) for row in rows)
    batch = max(1, NUMBERS // math.prod(data.get([0])["x"].shape[1:]))
    if largest * len(data) <= memory:
        return InMemory(data, describe, batch)
    return Cached(data, latents(describe), folder, model_hash(codec), batch, process.rank, process.ranks, process.wait)


class InMemory:
    """A data set with what describes "x" under "described" in its place, and everything else as it was."""

    def __init__(self, data: Dataset, describe: Callable[[Tensor], Tensor], batch: int = 256) -> None:
        """Describes all of the data, about ``batch`` examples at once."""
        self.data = data
        self.rows: list[dict[str, Any]] = [{} for _ in range(len(data))]
        for start in range(0, len(data), batch):
            for indices, found in _alike(data, range(start, min(start + batch, len(data)))):
                columns = latents(describe)(found)
                for row, index in enumerate(indices):
                    self.rows[index] = {name: values[row] for name, values in columns.items()}

    def __len__(self) -> int:
        return len(self.rows)

    def arrange(self, seed: int, positions: Sequence[int]) -> list[int]:
        """The order of the data below."""
        return arrange(self.data, seed, positions)

    def get(self, indices: Sequence[int]) -> Batch:
        """Descriptions and everything else at some indices."""
        rows = [self.rows[index] for index in indices]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return {
            name: torch.stack(values) if isinstance(values[0], Tensor) else values for name, values in columns.items()
        }


def _alike(data: Dataset, indices: Sequence[int]) -> Iterator[tuple[Sequence[int], Batch]]:
    """The examples at some indices in batches of one shape."""
    if not isinstance(data, Arranged):
        yield indices, data.get(indices)
        return
    groups: dict[tuple[int, ...], list[tuple[int, Batch]]] = {}
    for index in indices:
        row = data.get([index])
        groups.setdefault(tuple(row["x"].shape), []).append((index, row))
    for group in groups.values():
        columns = ((name, [row[name] for _, row in group]) for name in group[0][1])
        joined = {
            name: torch.cat(found) if isinstance(found[0], Tensor) else [value for [value] in found]
            for name, found in columns
        }
        yield [index for index, _ in group], joined
