"""Whether samples are copies of training examples, and how near they come to them.

A sample that copies is nearer to its original than to anything else. A blurred or typical one is near to many examples,
whether it was trained on them or not. So its distance to the nearest training example is divided by that to the nearest
held-out one, which is nobody's original, and the ratio is compared with that of real held-out examples: below the ratio
that 5 % of them are below lie 5 % of samples that copy nothing, however blurred, and all that copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core.evaluation.interval import REACH, ConfidenceInterval, median

TAIL = 0.05  # share of real held-out examples that are as near to training examples
LEAST = 20  # held-out examples that such a share needs
REAL_EXAMPLES = 1000  # held-out ones whose distances are measured, at most
BLOCK = 1024  # rows of a distance matrix in memory
DIMENSIONS = 512  # of flattened views whose distances are measured; longer ones are projected at random


@dataclass(frozen=True)
class Nearness:
    """How near samples are to training examples, and how near real held-out examples are."""

    memorised: ConfidenceInterval  # share of samples that are as near as TAIL of held-out examples are
    distance: ConfidenceInterval  # median distance to the nearest training example
    distance_real: ConfidenceInterval


class Originals:
    """Training examples that samples may be copies of, and how near real held-out examples are to them."""

    def __init__(self, train: Tensor, held_out: Tensor) -> None:
        """train (M, D) and held-out (H, D) points. Raises ValueError for fewer than LEAST held-out ones."""
        if len(held_out) < LEAST:
            raise ValueError(f"memorisation is measured by {LEAST} held-out examples or more, not {len(held_out)}")
        self.train, self.held_out = train, held_out
        some = held_out[:REAL_EXAMPLES]
        self.count, distances = len(some), nearest_distance(some, train)
        ratios = distances / nearest_distance(some, held_out, itself=True).clamp(min=1e-12)
        self.threshold, self.distance = float(torch.quantile(ratios, TAIL)), median(distances)

    def nearness(self, samples: Tensor) -> Nearness:
        """How near samples (N, D) are."""
        distances = nearest_distance(samples, self.train)
        ratios = distances / nearest_distance(samples, self.held_out).clamp(min=1e-12)
        found = float((ratios < self.threshold).double().mean())
        # The threshold is only known as well as so many held-out examples tell, which counts as well.
        padded = (found * len(samples) + 2) / (len(samples) + 4)
        error = math.sqrt(padded * (1 - padded) / len(samples) + TAIL * (1 - TAIL) / self.count)
        share = ConfidenceInterval(found, max(0.0, found - REACH * error), min(1.0, found + REACH * error))
        return Nearness(share, median(distances), self.distance)


def nearest_distance(these: Tensor, those: Tensor, itself: bool = False) -> Tensor:
    """The distance (N,) of each of some points (N, D) to the nearest of others (M, D).

    itself: the first are the first of the others, and none is its own neighbour.
    """
    found = []
    for start in range(0, len(these), BLOCK):
        rows = these[start : start + BLOCK]
        distances = torch.cdist(rows, those)
        if itself:
            distances.diagonal(start).fill_(math.inf)
        # Measured again, because a distance by matrix products is not exactly 0 for a copy.
        found.append((rows - those[distances.argmin(1)]).norm(dim=1))
    return torch.cat(found)


def points(views: Tensor, seed: int = 0) -> Tensor:
    """Views (N, ...) flattened, (N, D); at more than DIMENSIONS numbers a random projection keeps distances to 3 %."""
    size = views[0].numel()
    if size <= DIMENSIONS:
        return views.flatten(1).float()
    projection = torch.randn(size, DIMENSIONS, generator=torch.Generator().manual_seed(seed)) / math.sqrt(DIMENSIONS)
    return torch.cat([rows.flatten(1).float() @ projection for rows in views.split(512)])
