"""Data encoded once, before training, where the codec is costly: in memory where that is enough, else on the disk.

What is kept of an example is its codec's moments of it: the mean and the log-variance of its latents, so
that what is diffused is drawn each time from the same law as if it were encoded each time. Pictures that a data set or
an augmentation changes at random are encoded each time that they are met, for they never come twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.cache.disk import ENCODING, Cached, Encode, Row, alike, joined, latents, model_hash, split
from core.codec import Codec
from core.data.dataset import Augment, Batch, Dataset, changes_x, varies
from core.data.order import example_order
from core.progress import Progress

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
    progress: Progress = Progress(),
) -> Dataset:
    """The data with ``codec.moments(x)`` under "moments" in place of "x", or as they are where that saves nothing.

    memory: bytes of moments that each process may have in memory; more of them lie in ``folder``, where a resumed
    run finds them.
    """
    if not codec.costly or len(data) == 0 or varies(data) or (augment is not None and changes_x(augment)):
        return data

    def moments(x: Tensor) -> Tensor:
        with torch.no_grad():
            return codec.moments(x.to(device)).cpu()

    encode = latents(moments)
    places = sorted({round(place) for place in torch.linspace(0, len(data) - 1, SAMPLED).tolist()})
    rows = [encode(data.get([place])) for place in places]
    largest = max(sum(value.nbytes for value in row.values() if isinstance(value, Tensor)) for row in rows)
    batch = max(1, NUMBERS // math.prod(data.get([0])["x"].shape[1:]))
    if largest * len(data) <= memory:
        return InMemory(data, encode, batch, progress)
    return Cached(
        data, encode, folder, model_hash(codec), batch, process.rank, process.ranks, process.wait, progress=progress
    )


class InMemory:
    """The data set ``encode(data.get(...))``, encoded when it is opened."""

    def __init__(self, data: Dataset, encode: Encode, batch: int = 256, progress: Progress = Progress()) -> None:
        """batch: examples encoded at once."""
        self.data = data
        self.rows: list[Row] = [{}] * len(data)
        for start in progress.track(range(0, len(data), batch), ENCODING):
            for group in alike(data, ((index, index) for index in range(start, min(start + batch, len(data))))):
                encoded = split(encode(joined([row for _, row in group])), len(group))
                for (index, _), row in zip(group, encoded, strict=True):
                    self.rows[index] = row

    def __len__(self) -> int:
        return len(self.rows)

    def example_order(self, seed: int, positions: Sequence[int]) -> list[int]:
        """The order of the data below."""
        return example_order(self.data, seed, positions)

    def get(self, indices: Sequence[int]) -> Batch:
        """The encoded examples."""
        return joined([self.rows[index] for index in indices])
