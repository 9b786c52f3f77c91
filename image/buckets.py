"""Aspect buckets: pictures keep about the shape they have, and a batch holds pictures of one shape (2307.01952, 2.3).

Each picture goes to the bucket whose aspect ratio is nearest, ``argmin |log(h / w) - log(H / W)|``. Every bucket is
walked in passes, each in an order of its own, so that a picture is met once a pass. In epoch e a bucket of n pictures
gives

    floor((e + 1) n / batch) - floor(e n / batch)

whole batches, which come in a random order among those of the other buckets. What is left over, less than a batch,
opens the bucket's first batch of the next epoch: nothing is dropped, padded or shown twice, and all of it is a function
of (seed, step). A bucket of fewer pictures than a batch is heard of every few epochs, several of its passes in a batch.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from core.data.dataset import Batch
from core.random import TrainingRNG, permutation
from image.data import DataError
from image.source import CENTRE, Place, Size, Source, fingerprint, places, read, size_of


def bucket_sizes(area: int = 1024 * 1024, multiple: int = 64, aspect: float = 4.0) -> tuple[Size, ...]:
    """Heights and widths that are multiples of ``multiple``, as large as fits into ``area``, no longer than ``aspect``.

    With the defaults these are SDXL's, from 512 x 2048 to 2048 x 512 (2307.01952, appendix I), less the few of its
    table that are smaller than they could be.
    """
    if area < multiple**2 or multiple < 1 or aspect < 1:
        raise DataError(f"no size in multiples of {multiple} has an area of at most {area}: ask for a larger area")
    sides = range(multiple, area // multiple + 1, multiple)
    found = {(side, area // side // multiple * multiple) for side in sides}
    found = {(long, short) for long, short in found if max(long, short) <= aspect * min(long, short)}
    found |= {(short, long) for long, short in found}
    return tuple(sorted(found))


def nearest_bucket(size: Size, buckets: Sequence[Size]) -> int:
    """The bucket whose aspect ratio is nearest to that of a picture, the first of equals."""
    aspect = math.log(size[0] / size[1])
    return min(range(len(buckets)), key=lambda index: abs(aspect - math.log(buckets[index][0] / buckets[index][1])))


class Bucketed:
    """Captioned pictures in buckets. ``batch`` must be the batch of the training: all its parts and processes.

    Held-out data, which are read in the order they have, are better given one size: see ``Captioned``.
    """

    def __init__(
        self, source: Source, buckets: Sequence[Size], batch: int, channels: int = 3, random_crop: bool = False
    ) -> None:
        """Looks at the header of every picture. Raises DataError where one cannot be read, or there are none."""
        if len(source) == 0 or batch < 1 or not buckets:
            raise DataError("buckets need pictures, sizes, and a batch of at least 1")
        self.source = source
        self.batch = batch
        self.channels = channels
        self.random_crop = random_crop
        found = [nearest_bucket(size_of(source, index), buckets) for index in range(len(source))]
        used = sorted(set(found))
        self.buckets = tuple(buckets[bucket] for bucket in used)  # those that hold a picture
        self.bucket = np.searchsorted(used, found)  # (N,) which of them each picture is in
        self.members = [np.flatnonzero(self.bucket == bucket) for bucket in range(len(used))]

    def __len__(self) -> int:
        return len(self.source)

    def example_order(self, seed: int, positions: Sequence[int]) -> list[int]:
        """Which pictures the positions of the run stand for: those of a step are of one bucket."""
        counts = tuple(len(members) for members in self.members)
        found = []
        for position in positions:
            step, row = divmod(position, self.batch)
            epoch = _epoch(counts, self.batch, step)
            bucket, turn = _plan(seed, epoch, counts, self.batch)[step - _before(counts, self.batch, epoch)]
            lap, place = divmod(int(turn) * self.batch + row, counts[bucket])
            found.append(int(self.members[bucket][_pass(seed, int(bucket), lap, counts[bucket])[place]]))
        return found

    def get(self, indices: Sequence[int]) -> Batch:
        """What ``Captioned.get`` gives, at the size of the bucket. Raises DataError for pictures of two buckets."""
        return self._read(indices, [CENTRE] * len(indices))

    def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> Batch:
        """The same, with random crops if they are wanted."""
        return self._read(indices, places(rng)) if self.random_crop else self.get(indices)

    def fingerprint(self, index: int) -> bytes:
        """A hash of everything that ``get`` makes of a picture, without decoding it."""
        return fingerprint(self.source, index, self.buckets[self.bucket[index]], self.channels)

    def _read(self, indices: Sequence[int], where: Sequence[Place]) -> Batch:
        asked = set(self.bucket[list(indices)].tolist())
        if len(asked) != 1:
            raise DataError(
                f"a batch asks for pictures of {len(asked)} buckets at once, but buckets fill batches of {self.batch}: "
                "train with that batch, and give held-out data one size"
            )
        return read(self.source, indices, self.buckets[asked.pop()], where, self.channels)


def _before(counts: tuple[int, ...], batch: int, epoch: int) -> int:
    """How many batches there are before an epoch."""
    return sum(epoch * count // batch for count in counts)


@lru_cache(maxsize=4)
def _epoch(counts: tuple[int, ...], batch: int, step: int) -> int:
    """The epoch of a step: the last that does not begin after it."""
    # Each bucket has less than a batch left over, which bounds the epochs a step can lie in.
    last = (step + 1 + len(counts)) * batch // sum(counts) + 1
    return bisect.bisect_right(range(last + 1), step, key=lambda epoch: _before(counts, batch, epoch)) - 1


# Several, because workers read neighbouring epochs.
@lru_cache(maxsize=4)
def _plan(seed: int, epoch: int, counts: tuple[int, ...], batch: int) -> np.ndarray:
    """The batches of an epoch (batches, 2): the bucket of each, and its number among those of its bucket in the run."""
    first, last = (np.array([at * count // batch for count in counts]) for at in (epoch, epoch + 1))
    buckets = np.repeat(np.arange(len(counts)), last - first)
    buckets = buckets[permutation(seed, epoch, len(buckets))]
    turns = np.empty_like(buckets)
    for bucket, turn in enumerate(first):
        turns[buckets == bucket] = turn + np.arange(np.count_nonzero(buckets == bucket))
    return np.stack([buckets, turns], axis=1)


# A batch can straddle two passes of its bucket.
@lru_cache(maxsize=256)
def _pass(seed: int, bucket: int, lap: int, count: int) -> np.ndarray:
    """The order of a pass over a bucket; the numbers of epochs end where those of passes begin."""
    return permutation(seed, (bucket + 1) * 2**32 + lap, count)
