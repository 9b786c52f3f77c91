"""Counter-based randomness: sample i is sample i.

Every random number is a function of (seed, stream, sample, step, part) and of nothing else: the Philox generator is
keyed by (seed, stream) and its counter starts at (part, sample, step). So a sample does not change with the size of its
batch, the order of the batches or the number of processes, and resuming at step k needs nothing but k. Numbers are
drawn on the host in float64 and then cast, so that they do not change with device or precision either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


class Stream(IntEnum):
    """What a random number is for; streams never overlap."""

    START = 0  # the initial noise of a sample
    STEP = 1  # the noise a stochastic sampler adds
    BROWNIAN = 2  # the path of an SDE sampler
    PROBE = 3  # trace estimators
    TIME = 4  # training: the time of a sample
    NOISE = 5  # training: the noise of a sample
    DROP = 6  # training: whether a condition is dropped
    ORDER = 7  # training: the order of the data
    AUGMENT = 8  # training: augmentation
    CODEC = 9  # posterior samples, dequantisation
    NETWORK = 10  # seeds of torch's own generators (dropout)
    LABEL = 11  # conditions drawn when none are asked for


def normal(seed: int, samples: Sequence[int], stream: Stream, step: int, shape: Sequence[int], part: int = 0) -> Tensor:
    """Standard normals (len(samples), *shape), float64 on the host; row i depends on ``samples[i]`` only."""
    size = math.prod(shape)
    return _draw(seed, samples, stream, step, part, (len(samples), *shape), lambda g: g.standard_normal(size))


def uniform(
    seed: int, samples: Sequence[int], stream: Stream, step: int, shape: Sequence[int] = (), part: int = 0
) -> Tensor:
    """Uniforms in [0, 1) of shape (len(samples), *shape), float64 on the host."""
    size = math.prod(shape)
    return _draw(seed, samples, stream, step, part, (len(samples), *shape), lambda g: g.random(size))


def permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of ``length`` examples in an epoch."""
    return np.random.Generator(_philox(seed, Stream.ORDER, epoch)).permutation(length)


def network_seed(seed: int, step: int, rank: int = 0) -> int:
    """A seed for torch's global generator, so that dropout too is a function of the step."""
    return int(np.random.Generator(_philox(seed, Stream.NETWORK, step, rank)).integers(2**63))


def _philox(seed: int, stream: int, step: int, sample: int = 0, part: int = 0) -> np.random.Philox:
    counter = np.array([0, part, sample, step], dtype=np.uint64)
    return np.random.Philox(counter=counter, key=np.array([seed % 2**64, stream], dtype=np.uint64))


def _draw(
    seed: int,
    samples: Sequence[int],
    stream: int,
    step: int,
    part: int,
    shape: tuple[int, ...],
    take: Callable[[np.random.Generator], np.ndarray],
) -> Tensor:
    bits = _philox(seed, stream, step, 0, part)
    generator = np.random.Generator(bits)
    state = bits.state
    rows = np.empty((shape[0], math.prod(shape[1:])))
    for row, sample in zip(rows, samples, strict=True):
        # Setting the counter is four times cheaper than a new generator for each sample.
        state["state"]["counter"][2] = sample
        bits.state = state
        row[:] = take(generator)
    return torch.from_numpy(rows).view(shape)


@dataclass
class SamplingRNG:
    """The randomness of one batch in a sampler: row i is sample ``samples[i]`` of ``seed``."""

    seed: int
    samples: Sequence[int]
    _path: dict[float, Tensor] = field(default_factory=dict, repr=False)

    def start(self, shape: Sequence[int]) -> Tensor:
        """The initial unit noise, (len(samples), *shape), float64."""
        return normal(self.seed, self.samples, Stream.START, 0, shape)

    def normal(self, like: Tensor, step: int, part: int = 0) -> Tensor:
        """Unit noise for a step of a sampler, like ``like`` (B, ...); ``part`` tells several draws of a step apart."""
        return normal(self.seed, self.samples, Stream.STEP, step, like.shape[1:], part).to(like)

    def probe(self, like: Tensor, part: int = 0) -> Tensor:
        """Random signs for a trace estimator, like ``like`` (B, ...)."""
        return normal(self.seed, self.samples, Stream.PROBE, 0, like.shape[1:], part).sign().to(like)

    def brownian(self, like: Tensor, start: float, stop: float) -> Tensor:
        """The increment of a Brownian path on [0, 1] between two points, divided by sqrt(|stop - start|): unit noise.

        The path is a function of (seed, sample, place): every grid sees the same path. Samplers place a noise level at
        ``(2 / pi) atan(sigma / alpha)``.
        """
        ends = [self._brownian(point, like.shape[1:]) for point in (start, stop)]
        self._path = {start: ends[0], stop: ends[1]}
        return ((ends[1] - ends[0]) / math.sqrt(abs(stop - start))).to(like)

    def _brownian(self, point: float, shape: Sequence[int], depth: int = 30) -> Tensor:
        """W(point) by a virtual Brownian tree: Levy's midpoint displacement, linear below 2^-depth (2001.01328)."""
        known = self._path.get(point)
        if known is not None and known.shape[1:] == tuple(shape):
            return known
        low, high = 0.0, 1.0
        at_low = torch.zeros(len(self.samples), *shape, dtype=torch.float64)
        at_high = normal(self.seed, self.samples, Stream.BROWNIAN, 0, shape)
        node = 1
        for _ in range(depth):
            if point in (low, high):
                break
            middle = (low + high) / 2
            bridge = normal(self.seed, self.samples, Stream.BROWNIAN, node, shape)
            at_middle = (at_low + at_high) / 2 + bridge * math.sqrt(high - low) / 2
            if point < middle:
                high, at_high, node = middle, at_middle, 2 * node
            else:
                low, at_low, node = middle, at_middle, 2 * node + 1
        return torch.lerp(at_low, at_high, (point - low) / (high - low))


@dataclass(frozen=True)
class TrainingRNG:
    """The randomness of one training batch: row i is the sample at position ``positions[i]`` of the run.

    A position counts the samples of the whole run, over all processes, so that what is drawn for a sample depends
    neither on how batches are cut nor on who computes them.
    """

    seed: int
    positions: Sequence[int]

    def normal(self, like: Tensor, stream: Stream, part: int = 0) -> Tensor:
        """Unit noise like ``like`` (B, ...)."""
        return normal(self.seed, self.positions, stream, 0, like.shape[1:], part).to(like)

    def uniform(self, stream: Stream, part: int = 0) -> Tensor:
        """Independent uniforms (B,) in [0, 1), float64 on the host."""
        return uniform(self.seed, self.positions, stream, 0, (), part)

    def low_discrepancy(self, stream: Stream, part: int = 0) -> Tensor:
        """Uniforms (B,) of low discrepancy: any run of consecutive positions covers [0, 1) evenly, whoever draws it.

        Multiples of the golden ratio modulo 1, computed in 64-bit integers so that they stay exact in a long run.
        """
        start = int(float(uniform(self.seed, [0], stream, 1, (), part)) * 2**64)
        return torch.tensor(
            [((start + position * _GOLDEN) % 2**64 >> 11) / 2**53 for position in self.positions], dtype=torch.float64
        )
