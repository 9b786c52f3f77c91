"""Metrics: how far one set of samples is from another, in features of any kind, each with a bootstrap interval.

A metric takes features (N, D): what a network sees in a sample, or the flattened sample itself. Its interval says how
much the figure would change with other samples. Resampling with replacement repeats points, which by itself moves most
distances; so only the spread of the bootstrap is used, around the figure itself: the bias that any such figure has for
its number of samples stays, and only figures of equally many samples compare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK = 2048  # rows of a distance matrix held at a time


@dataclass(frozen=True)
class ConfidenceInterval:
    """A figure and the 95 % interval of its sampling error; without a bootstrap the ends are NaN."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Moments:
    """The mean (D,) and the covariance (D, D) of features, all that a Frechet distance needs."""

    mean: Tensor
    covariance: Tensor


@torch.no_grad()
def features(network: Callable[[Tensor], Tensor], data: Tensor, batch: int = 256) -> Tensor:
    """The features of data (N, ...), batch by batch, flattened: (N, D), float64 on the host."""
    return torch.cat([network(rows).flatten(1).double().cpu() for rows in data.split(batch)])


def moments(samples: Tensor) -> Moments:
    """Mean and unbiased covariance of features (N, D)."""
    samples = _checked(samples)
    return Moments(samples.mean(0), torch.cov(samples.T).view(samples.shape[1], samples.shape[1]))


def frechet_distance(a: Moments, b: Moments) -> float:
    """``|m_a - m_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2))`` (1706.08500, equation 6), in float64.

    By eigenvalues of symmetric matrices only, so that singular covariances (fewer samples than features) are exact.
    """
    pairs = (each[None] for each in (a.mean, a.covariance, b.mean, b.covariance))
    return float(_frechet(*pairs)[0])


def frechet(a: Tensor, b: Tensor, n_boot: int = 0, seed: int = 0) -> ConfidenceInterval:
    """The Frechet distance of features a (N, D) and b (M, D)."""
    a, b = _checked(a), _checked(b)
    value = frechet_distance(moments(a), moments(b))
    rng = np.random.default_rng(seed)
    draws = [
        _frechet(*_weighted_moments(a, _counts(rng, len(a), size)), *_weighted_moments(b, _counts(rng, len(b), size)))
        for size in _portions(n_boot, a.shape[1] ** 2)
    ]
    return _interval(value, draws)


def kernel(a: Tensor, b: Tensor, n_boot: int = 0, seed: int = 0) -> ConfidenceInterval:
    """The kernel distance: the unbiased squared MMD under ``(x . y / D + 1)^3`` (1801.01401, section 4).

    Its expectation is 0 for equal laws, so it may be below 0. It takes memory for N x M numbers: see
    ``kernel_subsets`` for large sets.
    """
    a, b = _checked(a), _checked(b)
    aa, bb, ab = (_polynomial(left, right) for left, right in ((a, a), (b, b), (a, b)))

    def distance(u: Tensor, v: Tensor) -> Tensor:  # how often each row counts, (R, N) and (R, M) -> (R,)
        within = [
            ((w @ k * w).sum(1) - w**2 @ k.diagonal()) / (w.sum(1) ** 2 - (w**2).sum(1)) for w, k in ((u, aa), (v, bb))
        ]
        return within[0] + within[1] - 2 * (u @ ab * v).sum(1) / (u.sum(1) * v.sum(1))

    value = float(distance(torch.ones(1, len(a)).double(), torch.ones(1, len(b)).double()))
    rng = np.random.default_rng(seed)
    draws = [
        distance(_counts(rng, len(a), size), _counts(rng, len(b), size)) for size in _portions(n_boot, len(a) + len(b))
    ]
    return _interval(value, draws)


def kernel_subsets(a: Tensor, b: Tensor, size: int = 1000, count: int = 100, seed: int = 0) -> ConfidenceInterval:
    """The kernel distance as the mean over ``count`` random subsets of ``size`` of each set.

    The interval is that of the whole sets, to which the spread of the subsets is scaled.
    """
    if not 2 <= size <= min(len(a), len(b)):
        raise ValueError(f"subsets of {size} need at least as many samples: there are {len(a)} and {len(b)}")
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(count):
        rows = [torch.from_numpy(rng.choice(len(each), size, replace=False)) for each in (a, b)]
        values.append(kernel(a[rows[0]], b[rows[1]]).value)
    reach = 1.96 * float(np.std(values)) * (size / min(len(a), len(b))) ** 0.5
    return ConfidenceInterval(float(np.mean(values)), float(np.mean(values)) - reach, float(np.mean(values)) + reach)


@dataclass(frozen=True)
class Neighbours:
    """How real and generated samples lie among each other, by balls around each that reach its k-th neighbour."""

    precision: ConfidenceInterval  # generated samples inside a ball of a real one (1904.06991)
    recall: ConfidenceInterval  # real samples inside a ball of a generated one
    density: (
        ConfidenceInterval  # balls of real samples that hold a generated one, over k: 1 for equal laws (2002.09797)
    )
    coverage: ConfidenceInterval  # balls of real samples that hold any


def neighbours(
    real: Tensor, fake: Tensor, k: int = 3, n_boot: int = 0, seed: int = 0, k_density: int | None = None
) -> Neighbours:
    """Precision, recall, density and coverage of features real (N, D) and fake (M, D).

    ``k_density`` is the k of density and coverage where it is another: the papers take 3 for the first two and 5 for
    these. The intervals resample the samples that are counted, the balls held fixed. Raises ValueError where a set has
    no k neighbours.
    """
    real, fake = _checked(real), _checked(fake)
    k_density = k if k_density is None else k_density
    most = max(k, k_density)
    if min(k, k_density) < 1 or most >= min(len(real), len(fake)):
        raise ValueError(
            f"{most} neighbours need more samples than the {len(real)} real and {len(fake)} generated ones"
        )
    around_real, around_fake, around_dense = _radii(real, k), _radii(fake, k), _radii(real, k_density)
    inside, ball_counts, recalled, covered = [], [], torch.zeros(len(real)), torch.zeros(len(real))
    for start, distance in _distances(fake, real):  # (rows, N)
        inside.append((distance <= around_real).any(1))
        within = distance <= around_dense
        ball_counts.append(within.sum(1))  # in how many real balls each generated sample is
        covered += within.any(0)
        recalled += (distance <= around_fake[start : start + len(distance), None]).any(0)
    rng = np.random.default_rng(seed)
    counts = (torch.cat(inside), recalled > 0, torch.cat(ball_counts) / k_density, covered > 0)
    shares = [each.double() for each in counts]
    return Neighbours(*(_mean(values, n_boot, rng) for values in shares))


def average(values: Tensor, n_boot: int = 0, seed: int = 0) -> ConfidenceInterval:
    """The mean of a figure that each sample has by itself, values (N,)."""
    return _mean(_checked(values[:, None])[:, 0], n_boot, np.random.default_rng(seed))


def nearest(samples: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of each sample (N, D) to its nearest training sample (M, D), and which that is: (N,), (N,)."""
    samples, train = _checked(samples), _checked(train)
    which = torch.cat([distance.argmin(1) for _, distance in _distances(samples, train)])
    # Measured again, because a distance by matrix products is not exactly 0 for a copy.
    return (samples - train[which]).norm(dim=1), which


def nearest_median(samples: Tensor, train: Tensor, n_boot: int = 0, seed: int = 0) -> ConfidenceInterval:
    """The median distance to the nearest training sample: small where a model has memorised."""
    found = nearest(samples, train)[0].numpy()
    rng = np.random.default_rng(seed)
    draws = [
        torch.from_numpy(np.median(rng.choice(found, (size, len(found))), axis=1)) for size in _portions(n_boot, 1)
    ]
    return _interval(float(np.median(found)), draws)


def _checked(samples: Tensor) -> Tensor:
    if samples.ndim != 2 or len(samples) < 2:
        raise ValueError(f"a metric needs features (N, D) of two samples or more, not {tuple(samples.shape)}")
    if not bool(samples.isfinite().all()):
        raise ValueError("the features contain NaN or infinity: the samples, or the network that sees them, are broken")
    return samples.detach().double().cpu()


def _frechet(mean_a: Tensor, a: Tensor, mean_b: Tensor, b: Tensor) -> Tensor:
    """Means (R, D) and covariances (R, D, D) -> distances (R,)."""
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt()[:, None]  # R R^T = A, and R^T B R has the eigenvalues wanted
    shared = torch.linalg.eigvalsh(root.mT @ b @ root).clamp(min=0).sqrt().sum(1)
    traces = a.diagonal(dim1=1, dim2=2).sum(1) + b.diagonal(dim1=1, dim2=2).sum(1)
    return ((mean_a - mean_b) ** 2).sum(1) + traces - 2 * shared


def _weighted_moments(samples: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Means (R, D) and covariances (R, D, D) of samples (N, D), row i taken ``counts[r, i]`` times."""
    size = len(samples)
    centred = samples - samples.mean(0)
    mean = counts @ centred / size
    second = torch.stack([(centred * row[:, None]).T @ centred for row in counts])
    covariance = (second - size * mean[:, :, None] * mean[:, None]) / (size - 1)
    return mean + samples.mean(0), covariance


def _polynomial(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks of the distances of a (N, D) to b (M, D): the first row and (rows, M)."""
    for start in range(0, len(a), BLOCK):
        yield start, torch.cdist(a[start : start + BLOCK], b)


def _radii(samples: Tensor, k: int) -> Tensor:
    """The distance of each sample to its k-th neighbour; the nearest of all is itself."""
    return torch.cat([distance.kthvalue(k + 1, dim=1).values for _, distance in _distances(samples, samples)])


def _counts(rng: np.random.Generator, size: int, repeats: int) -> Tensor:
    """How often each of ``size`` samples is in each of ``repeats`` resamples, (repeats, size)."""
    drawn = rng.integers(size, size=(repeats, size)) + size * np.arange(repeats)[:, None]
    return torch.from_numpy(np.bincount(drawn.ravel(), minlength=repeats * size).reshape(repeats, size)).double()


def _portions(n_boot: int, numbers: int) -> list[int]:
    """``n_boot`` cut into portions that hold at most ten million numbers at a time."""
    if n_boot < 0:
        raise ValueError(f"the number of resamples must not be negative: {n_boot}")
    most = max(1, 10_000_000 // numbers)
    return [min(most, n_boot - start) for start in range(0, n_boot, most)]


def _mean(values: Tensor, n_boot: int, rng: np.random.Generator) -> ConfidenceInterval:
    draws = [_counts(rng, len(values), size) @ values / len(values) for size in _portions(n_boot, len(values))]
    return _interval(float(values.mean()), draws)


def _interval(value: float, draws: list[Tensor]) -> ConfidenceInterval:
    """The figure, with the 2.5 % and 97.5 % quantiles of the resamples' deviations from their own mean."""
    if not draws:
        return ConfidenceInterval(value, float("nan"), float("nan"))
    found = torch.cat(draws).numpy()
    low, high = np.quantile(found - found.mean(), (0.025, 0.975))
    return ConfidenceInterval(value, value + float(low), value + float(high))
