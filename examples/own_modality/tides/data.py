"""Tides by formula, and how samples are measured against them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

HOURS = 24


class Days:
    """Two tides a day, each day a little later."""

    def __init__(self, count: int = 64, first: int = 0) -> None:
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def get(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        hours = torch.arange(HOURS) / HOURS * 4 * math.pi
        return {"x": torch.stack([(hours + 0.1 * (self.first + index)).sin()[None] for index in indices])}


def evaluate(samples: Tensor, conditions: Mapping[str, Any]) -> Mapping[str, object]:
    """The mean range between high and low water, in metres, and that of real days."""
    real = Days().get(range(64))["x"]
    return {"range": _range(samples), "range, real": _range(real), "samples": len(samples)}


def _range(x: Tensor) -> float:
    return float((x.amax(-1) - x.amin(-1)).mean())
