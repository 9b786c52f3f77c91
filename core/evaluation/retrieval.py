"""R-precision: whether a sample's own caption is among the nearest of a few, in a space of captions and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from core.evaluation.interval import ConfidenceInterval, average

TOP, OF = 3, 32  # as in 2204.14109


def r_precision(
    seen: Tensor, captions: Sequence[str], pool: Sequence[str], texts: Tensor, top: int = TOP, of: int = OF
) -> ConfidenceInterval:
    """How often the own caption of a sample is among the ``top`` nearest of ``of`` captions.

    seen (N, D) are the samples and captions (N,) their own; pool (P,) are captions, all different, and texts (P, D)
    where they lie; all own ones are among them. The others are drawn from the pool, and the figure is the mean over all
    draws, by how many of the pool are nearer than the own one. A text at the same place is no nearer.
    """
    where = {caption: index for index, caption in enumerate(pool)}
    own = torch.tensor([where[caption] for caption in captions])
    scores = seen.double() @ texts.double().T
    nearer = (scores > scores.gather(1, own[:, None]) + 1e-9).sum(1).tolist()
    return average(torch.tensor([_few_nearer(count, len(pool) - 1, top, of) for count in nearer]))


def chance(pool: int, top: int = TOP, of: int = OF) -> float:
    """What R-precision is without any knowledge."""
    return min(1.0, top / min(of, pool))


def _few_nearer(nearer: int, others: int, top: int, of: int) -> float:
    """The probability that of ``of`` - 1 of the others, drawn without repetition, fewer than ``top`` are nearer."""
    drawn = min(of - 1, others)
    ways = sum(math.comb(nearer, k) * math.comb(others - nearer, drawn - k) for k in range(min(top, drawn + 1)))
    return ways / math.comb(others, drawn)
