"""Captioned pictures in aspect buckets: see ``core.data.buckets``."""

from __future__ import annotations

from collections.abc import Sequence

from core.data.buckets import Buckets, nearest_bucket
from core.data.dataset import Batch, DataError
from core.data.source import Source, fingerprint
from core.media.picture import CENTRE, CropPosition, Size
from core.random import TrainingRNG
from image.source import crop_positions, read_batch, size_of


class Bucketed:
    """Captioned pictures in buckets. ``batch`` must be the batch of the training: all its parts and processes.

    Held-out data, which are read in the order they have, are better given one size: see ``Captioned``.
    """

    def __init__(
        self, source: Source, buckets: Sequence[Size], batch: int, channels: int = 3, random_crop: bool = False
    ) -> None:
        """Reads the header of every picture. Raises DataError where one cannot be read, or there are none."""
        if not buckets:
            raise DataError("buckets need sizes")
        self.source = source
        self.channels = channels
        self.random_crop = random_crop
        found = [nearest_bucket(size_of(source, index), buckets) for index in range(len(source))]
        used = sorted(set(found))
        self.sizes = tuple(buckets[bucket] for bucket in used)  # of those that hold a picture
        self.buckets = Buckets([used.index(bucket) for bucket in found], batch)

    def __len__(self) -> int:
        return len(self.source)

    def example_order(self, seed: int, positions: Sequence[int]) -> list[int]:
        """Which pictures the positions of the run stand for: those of a step are of one bucket."""
        return self.buckets.example_order(seed, positions)

    def get(self, indices: Sequence[int]) -> Batch:
        """What ``Captioned.get`` gives, at the size of the bucket. Raises DataError for pictures of two buckets."""
        return self._read(indices, [CENTRE] * len(indices))

    @property
    def random(self) -> bool:
        """Whether ``get_augmented`` differs from ``get``."""
        return self.random_crop

    def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> Batch:
        """The same, with random crops if they are wanted."""
        return self._read(indices, crop_positions(rng)) if self.random_crop else self.get(indices)

    def fingerprint(self, index: int) -> bytes:
        """A hash of everything that ``get`` makes of a picture, without decoding it."""
        return fingerprint(self.source, index, f"{self.sizes[self.buckets.of([index])]} {self.channels}")

    def _read(self, indices: Sequence[int], where: Sequence[CropPosition]) -> Batch:
        return read_batch(self.source, indices, self.sizes[self.buckets.of(indices)], where, self.channels)
