"""The one interval of every figure: its value, and 1.96 standard errors to both sides, which is 95 % of a normal law.

The error of a mean is its own, ``deviation / sqrt(N)``; that of a Frechet distance that of the mean of its influence
function. That of any other figure of samples is found by leaving out groups of them, one after the other (the
delete-a-group jackknife of Quenouille and Tukey): of G groups

    error^2 = (G - 1) / G sum_g (figure without g - their mean)^2     summed over the sets that a figure compares

No sample is ever repeated, as in a bootstrap, which moves most distances by itself. The bias that any distance has for
its number of samples stays: only figures of equally many samples compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

REACH = 1.96  # standard errors
Weighted = Callable[[Sequence[Tensor]], Tensor]  # which rows of each set count, (R, N_i) of 0 and 1 -> figures (R,)


@dataclass(frozen=True)
class ConfidenceInterval:
    """A figure and the 95 % interval of its sampling error; where that was not asked for the ends are NaN."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, error: float) -> ConfidenceInterval:
        """The interval of a figure with a standard error."""
        return cls(value, value - REACH * error, value + REACH * error)

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def average(values: Tensor) -> ConfidenceInterval:
    """The mean of what each sample has by itself, or of what is measured again and again, values (N,).

    Raises ValueError for fewer than two.
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"a mean with an interval needs two values or more, not {tuple(values.shape)}")
    values = values.detach().double().cpu()
    return ConfidenceInterval.around(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def share(found: Sequence[bool] | Tensor) -> ConfidenceInterval:
    """The share of samples of which something is true.

    Its error is that with two more of either kind (Agresti and Coull 1998), as a share of all is no certainty.
    """
    count, value = len(found), sum(map(bool, found)) / len(found)
    padded = (value * count + 2) / (count + 4)
    around = ConfidenceInterval.around(value, math.sqrt(padded * (1 - padded) / (count + 4)))
    return ConfidenceInterval(value, max(0.0, around.low), min(1.0, around.high))


def median(values: Tensor) -> ConfidenceInterval:
    """The median of values (N,), between the values of the ranks that it has in 95 % of cases, whatever their law."""
    ordered = values.detach().double().cpu().sort().values
    count = len(ordered)
    reach = REACH / 2 * math.sqrt(count)
    low, high = math.floor(count / 2 - reach), math.ceil(count / 2 + reach)
    ends = float(ordered[max(0, low)]), float(ordered[min(count - 1, high)])
    return ConfidenceInterval(float(torch.quantile(ordered, 0.5)), *ends)


def without_groups(figure: Weighted, sizes: Sequence[int], groups: int, seed: int = 0) -> ConfidenceInterval:
    """A figure of sets of so many samples, and its interval by leaving out each of ``groups`` random groups of a set.

    groups: 0 leaves the interval out. Raises ValueError for 1 or less than 0.
    """
    value = float(figure([torch.ones(1, size, dtype=torch.float64) for size in sizes])[0])
    if groups == 0:
        return ConfidenceInterval(value, math.nan, math.nan)
    if groups < 2:
        raise ValueError(f"an interval needs at least 2 groups of samples to leave out, not {groups}: give 0 for none")
    rng, variance = np.random.default_rng(seed), 0.0
    for place, size in enumerate(sizes):
        count = min(groups, size)
        group = torch.from_numpy(rng.permutation(size) % count)  # (N,)
        found = []
        for number in range(count):
            rows = [torch.ones(1, other, dtype=torch.float64) for other in sizes]
            rows[place] = (group != number).double()[None]
            found.append(float(figure(rows)[0]))
        variance += (count - 1) * float(np.var(found))
    return ConfidenceInterval.around(value, math.sqrt(variance))
