"""Pairings of data and noise within a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Pairing = Callable[[Tensor, Tensor], Tensor]  # x (B, ...), noise (B, ...) -> the noise in another order


def as_drawn(x: Tensor, noise: Tensor) -> Tensor:
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
