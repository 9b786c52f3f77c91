"""The published protocol of text to motion (2204.14109, section 5): how real, how apt, how varied.

All of it is measured in the space of a matcher: texts (N, D) and motions (N, D), row i belonging to row i. What is
random is repeated, and reported as the mean with a 95 % interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from core.evaluation.distances import frechet
from core.evaluation.interval import ConfidenceInterval, average

BATCH = 32
REPEATS = 20


def r_precision(texts: Tensor, motions: Tensor, draw: torch.Generator, top: int = 3, batch: int = BATCH) -> Tensor:
    """R-precision top 1 to ``top`` (top,): how often a motion's own text is among the nearest of ``batch`` texts.

    The order is drawn, and what fills no batch is left out. A text at the same distance is no nearer, so that equal
    captions do not count against each other. Raises ValueError for fewer samples than a batch.
    """
    if len(texts) < batch:
        raise ValueError(f"R-precision needs batches of {batch}, and there are {len(texts)} samples: draw more")
    order = torch.randperm(len(texts), generator=draw)[: len(texts) // batch * batch].view(-1, batch)
    away = (motions[order][:, :, None] - texts[order][:, None]).norm(dim=-1)  # (batches, motions, texts)
    own = away.diagonal(dim1=1, dim2=2)[..., None]
    rank = (away < own - 1e-6).sum(-1).flatten()
    return torch.stack([(rank < place).double().mean() for place in range(1, top + 1)])


def multimodal_distance(texts: Tensor, motions: Tensor) -> ConfidenceInterval:
    """MM-Dist: the mean distance of a motion to its text."""
    return average((texts - motions).norm(dim=-1))


def diversity(motions: Tensor, draw: torch.Generator, pairs: int = 300) -> float:
    """The mean distance of random pairs of motions, none of which is a motion with itself."""
    count = len(motions)
    first = torch.randint(count, (pairs,), generator=draw)
    second = (first + 1 + torch.randint(count - 1, (pairs,), generator=draw)) % count
    return float((motions[first] - motions[second]).norm(dim=-1).mean())


def multimodality(motions: Tensor, draw: torch.Generator, pairs: int = 10) -> float:
    """The mean distance of random pairs among the motions (texts, samples, D) of one text each."""
    samples = motions.shape[1]
    first = torch.randint(samples, (pairs,), generator=draw)
    second = (first + 1 + torch.randint(samples - 1, (pairs,), generator=draw)) % samples
    return float((motions[:, first] - motions[:, second]).norm(dim=-1).mean())


def repeated(measure: Callable[[torch.Generator], float], repeats: int = REPEATS, seed: int = 0) -> ConfidenceInterval:
    """The mean of a random figure, and the 95 % interval of that mean."""
    values = torch.tensor(
        [measure(torch.Generator().manual_seed(seed + number)) for number in range(repeats)], dtype=torch.float64
    )
    return average(values)


def protocol_figures(
    texts: Tensor, motions: Tensor, real: Tensor, repeats: int = REPEATS
) -> Mapping[str, ConfidenceInterval]:
    """FID to real motions (M, D), R-precision (where there is a batch), MM-Dist and Diversity of samples."""
    figures = {
        "FID": frechet(motions, real),
        "MM-Dist": multimodal_distance(texts, motions),
        "Diversity": repeated(lambda draw: diversity(motions, draw), repeats),
    }
    if len(texts) < BATCH:
        return figures
    tops = torch.stack([r_precision(texts, motions, torch.Generator().manual_seed(seed)) for seed in range(repeats)])
    for place, values in enumerate(tops.T, start=1):
        figures[f"R-precision top {place}"] = average(values)
    return figures
