"""Weights and inputs by formula, so that anyone can compute the same numbers with the published code."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor


def wave(shape: Sequence[int], size: float = 1.0, phase: float = 0.0) -> Tensor:
    """``size sin(0.11 i + phase)`` over the elements in their order."""
    place = torch.arange(math.prod(shape), dtype=torch.float64)
    return (size * torch.sin(0.11 * place + phase)).float().view(*shape)


def formula(name: str, like: Tensor) -> Tensor:
    """The weights that belong to a published name; 1 is added to the weights of norms."""
    place = torch.arange(like.numel(), dtype=torch.float64)
    value = 0.1 * torch.sin(0.37 * place + zlib.crc32(name.encode()) % 1000 / 100)
    if name.endswith("weight") and like.ndim == 1:
        value = value + 1
    return value.float().view(like.shape)
