"""Pairings of data and noise within a batch: which noise goes with which sample, and what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Coupling = Callable[[Tensor, Tensor], Tensor]  # x (B, ...), noise (B, ...) -> the noise of each sample


def independent_coupling(x: Tensor, noise: Tensor) -> Tensor:
    """Sample i has noise i."""
    return noise


def optimal_transport(x: Tensor, noise: Tensor) -> Tensor:
    """The pairing with the smallest sum of squared distances: straighter paths (2302.00482, section 3.2).

    It is exact within the batch of one process, so it depends on how batches are cut.
    """
    # Imported here because scipy costs more than the rest of core.
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x.flatten(1).double(), noise.flatten(1).double()) ** 2
    columns = linear_sum_assignment(cost.cpu().numpy())[1]
    return noise[torch.from_numpy(columns).to(noise.device)]


@dataclass(frozen=True)
class Offset:
    """Noise with an offset for each channel, which teaches how bright a picture is on the whole (SDXL: 0.05).

    The law of ``noise + scale z`` with one normal z a channel, without drawing z: the mean over the n places of a
    channel is independent of the rest, and is widened from a variance of 1 / n to 1 / n + scale^2.
    """

    scale: float = 0.05

    def __call__(self, x: Tensor, noise: Tensor) -> Tensor:
        mean = noise.flatten(2).mean(2).view(*noise.shape[:2], *[1] * (noise.ndim - 2))
        return noise + (math.sqrt(1 + self.scale**2 * noise[0, 0].numel()) - 1) * mean
