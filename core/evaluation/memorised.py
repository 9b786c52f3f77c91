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

from core.evaluation.distances import nearest
from core.evaluation.interval import REACH, ConfidenceInterval, median

TAIL = 0.05  # share of real held-out examples that are as near to training examples
LEAST = 20  # held-out examples that such a share needs
DIMENSIONS = 512  # of flattened views whose distances are measured; longer ones are projected at random


@dataclass(frozen=True)
class Nearness:
    """How near samples are to training examples, and how near real held-out examples are."""

    memorised: ConfidenceInterval  # share of samples that are as near as TAIL of held-out examples are
    distance: ConfidenceInterval  # median distance to the nearest training example
    distance_real: ConfidenceInterval


def nearness(samples: Tensor, train: Tensor, held_out: Tensor) -> Nearness:
    """samples (N, D), train (M, D) and held-out (H, D) points. Raises ValueError for fewer than LEAST held-out ones."""
    if len(held_out) < LEAST:
        raise ValueError(f"memorisation is measured by {LEAST} held-out examples or more, not {len(held_out)}")
    of_samples, of_real = nearest(samples, train)[0], nearest(held_out, train)[0]
    others = torch.cdist(held_out, held_out).fill_diagonal_(math.inf).min(1).values
    ratios = of_samples / nearest(samples, held_out)[0].clamp(min=1e-12)
    threshold = torch.quantile(of_real / others.clamp(min=1e-12), TAIL)
    found = float((ratios < threshold).double().mean())
    # The threshold is only known as well as so many held-out examples tell, which counts as well.
    padded = (found * len(samples) + 2) / (len(samples) + 4)
    error = math.sqrt(padded * (1 - padded) / len(samples) + TAIL * (1 - TAIL) / len(held_out))
    share = ConfidenceInterval(found, max(0.0, found - REACH * error), min(1.0, found + REACH * error))
    return Nearness(share, median(of_samples), median(of_real))


def points(views: Tensor, seed: int = 0) -> Tensor:
    """Views (N, ...) flattened, (N, D); at more than DIMENSIONS numbers a random projection keeps distances to 3 %."""
    size = views[0].numel()
    if size <= DIMENSIONS:
        return views.flatten(1).double()
    projection = torch.randn(size, DIMENSIONS, generator=torch.Generator().manual_seed(seed)) / math.sqrt(DIMENSIONS)
    return torch.cat([rows.flatten(1).float() @ projection for rows in views.split(512)]).double()
