"""Metrics: how far one set of samples is from another, in features of any kind, each with its interval.

A metric takes features (N, D): what a network sees in a sample, or the flattened sample itself. Where there is
``groups``, so many groups of samples are left out in turn to find the interval (see ``core.evaluation.interval``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.evaluation.interval import ConfidenceInterval, average, share, without_groups

BLOCK = 2048  # rows of a distance matrix held at a time


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
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt()  # R R^T = A, and R^T B R has the eigenvalues wanted
    shared = torch.linalg.eigvalsh(root.mT @ b.covariance @ root).clamp(min=0).sqrt().sum()
    traces = a.covariance.trace() + b.covariance.trace()
    return float(((a.mean - b.mean) ** 2).sum() + traces - 2 * shared)


def frechet(a: Tensor, b: Tensor) -> ConfidenceInterval:
    """The Frechet distance of features a (N, D) and b (M, D).

    Its error is that of the mean of its influence function, a sample's share in it to first order. In equal laws that
    vanishes, and the interval is wider than the spread by up to a half; resampling is off by several times there.
    """
    a, b = _checked(a), _checked(b)
    variance = sum(float(_influence(x, y).var()) / len(x) for x, y in ((a, b), (b, a)))
    return ConfidenceInterval.around(frechet_distance(moments(a), moments(b)), math.sqrt(variance))


def frechet_unbiased(a: Tensor, b: Tensor, halvings: int = 4, seed: int = 0) -> ConfidenceInterval:
    """The Frechet distance of laws, of which a (N, D) and b (M, D) are samples: 0 for equal ones, give or take.

    What a distance of samples has too much falls with their number to first order, so twice the distance less that of
    random halves is without it (1911.07023 extrapolates alike). The error stays that of ``frechet``, and the interval
    covers what is true from about 8 samples a dimension. Raises ValueError for fewer than 4 samples.
    """
    a, b = _checked(a), _checked(b)
    if min(len(a), len(b)) < 4:
        raise ValueError(f"halves of {len(a)} and {len(b)} samples have no covariance: draw more")
    generator = torch.Generator().manual_seed(seed)
    whole, halves = frechet(a, b), []
    for _ in range(halvings):
        pairs = zip(*(_halves(each, generator) for each in (a, b)))
        halves += [frechet_distance(moments(x), moments(y)) for x, y in pairs]
    excess = sum(halves) / len(halves) - whole.value
    return ConfidenceInterval(whole.value - excess, whole.low - excess, whole.high - excess)


def _halves(samples: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    order, half = torch.randperm(len(samples), generator=generator), len(samples) // 2
    return samples[order[:half]], samples[order[half : 2 * half]]


def kernel(a: Tensor, b: Tensor, groups: int = 0, seed: int = 0) -> ConfidenceInterval:
    """The kernel distance: the unbiased squared MMD under ``(x . y / D + 1)^3`` (1801.01401, section 4).

    Its expectation is 0 for equal laws, so it may be below 0. It takes memory for N x M numbers: see
    ``kernel_subsets`` for large sets.
    """
    a, b = _checked(a), _checked(b)
    aa, bb, ab = (_polynomial(left, right) for left, right in ((a, a), (b, b), (a, b)))

    def distance(rows: Sequence[Tensor]) -> Tensor:
        u, v = rows
        within = [
            ((w @ k * w).sum(1) - w**2 @ k.diagonal()) / (w.sum(1) ** 2 - (w**2).sum(1)) for w, k in ((u, aa), (v, bb))
        ]
        return within[0] + within[1] - 2 * (u @ ab * v).sum(1) / (u.sum(1) * v.sum(1))

    return without_groups(distance, (len(a), len(b)), groups, seed)


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
    return ConfidenceInterval.around(
        float(np.mean(values)), float(np.std(values)) * (size / min(len(a), len(b))) ** 0.5
    )


@dataclass(frozen=True)
class Neighbours:
    """How real and generated samples lie among each other, by balls around each that reach its k-th neighbour."""

    precision: ConfidenceInterval  # generated samples inside a ball of a real one (1904.06991)
    recall: ConfidenceInterval  # real samples inside a ball of a generated one
    density: (
        ConfidenceInterval  # balls of real samples that hold a generated one, over k: 1 for equal laws (2002.09797)
    )
    coverage: ConfidenceInterval  # balls of real samples that hold any


def neighbours(real: Tensor, fake: Tensor, k: int = 3, k_density: int | None = None) -> Neighbours:
    """Precision, recall, density and coverage of features real (N, D) and fake (M, D).

    ``k_density`` is the k of density and coverage where it is another: the papers take 3 for the first two and 5 for
    these. The intervals are those of the samples that are counted, among balls that stay. Raises ValueError where a set
    has no k neighbours.
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
    dense = average(torch.cat(ball_counts).double() / k_density)
    return Neighbours(share(torch.cat(inside)), share(recalled > 0), dense, share(covered > 0))


def nearest(samples: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of each sample (N, D) to its nearest training sample (M, D), and which that is: (N,), (N,)."""
    samples, train = _checked(samples), _checked(train)
    which = torch.cat([distance.argmin(1) for _, distance in _distances(samples, train)])
    # Measured again, because a distance by matrix products is not exactly 0 for a copy.
    return (samples - train[which]).norm(dim=1), which


def nearest_median(samples: Tensor, train: Tensor, groups: int = 0, seed: int = 0) -> ConfidenceInterval:
    """The median distance to the nearest training sample: small where a model has memorised."""
    found = nearest(samples, train)[0].numpy()

    def median(rows: Sequence[Tensor]) -> Tensor:
        return torch.tensor([np.median(found[row.bool().numpy()]) for row in rows[0]])

    return without_groups(median, (len(found),), groups, seed)


def _checked(samples: Tensor) -> Tensor:
    if samples.ndim != 2 or len(samples) < 2:
        raise ValueError(f"a metric needs features (N, D) of two samples or more, not {tuple(samples.shape)}")
    if not bool(samples.isfinite().all()):
        raise ValueError("the features contain NaN or infinity: the samples, or the network that sees them, are broken")
    return samples.detach().double().cpu()


def _influence(samples: Tensor, others: Tensor) -> Tensor:
    """The influence (N,) of samples on their Frechet distance to others.

    With c = x - m_a and T = A^(-1/2) (A^(1/2) B A^(1/2))^(1/2) A^(-1/2), which carries one Gaussian to the other, it is
    ``2 (m_a - m_b) . c + c . (1 - T) c`` less its mean, as the distance's derivative by A is 1 - T.
    """
    a, b = moments(samples), moments(others)
    values, vectors = torch.linalg.eigh(a.covariance)
    root = values.clamp(min=0).sqrt()
    inverse = torch.where(values > values[-1] * 1e-10, 1 / root, 0.0)
    squares, turned = torch.linalg.eigh((vectors * root).mT @ b.covariance @ (vectors * root))
    half = (turned * squares.clamp(min=0).sqrt()) @ turned.mT
    back = vectors * inverse
    centred = samples - a.mean
    carried = centred @ (back @ half @ back.mT)
    return 2 * centred @ (a.mean - b.mean) + ((centred - carried) * centred).sum(1)


def _polynomial(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks of the distances of a (N, D) to b (M, D): the first row and (rows, M)."""
    for start in range(0, len(a), BLOCK):
        yield start, torch.cdist(a[start : start + BLOCK], b)


def _radii(samples: Tensor, k: int) -> Tensor:
    """The distance of each sample to its k-th neighbour; the nearest of all is itself."""
    return torch.cat([distance.kthvalue(k + 1, dim=1).values for _, distance in _distances(samples, samples)])
