"""Tides continued hour by hour: what follows an hour is normal around a line through the two hours before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.objective import Losses
from core.random import SamplingRNG, TrainingRNG
from core.systems.system import System

HOURS = 24


class Autoregression(System):
    """Each hour given the two before it, 0 before the day begins."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 1)
        self.log_spread = nn.Parameter(torch.zeros(()))

    def loss(self, batch: Mapping[str, Any], rng: TrainingRNG, quantiles: Tensor | None = None) -> Losses:
        """The negative log-likelihood of days "x" (B, 1, 24)."""
        x = batch["x"][:, 0]
        before = nn.functional.pad(x, (2, 0)).unfold(1, 2, 1)[:, :HOURS]  # (B, 24, 2)
        error = x - self.line(before)[..., 0]
        each = (0.5 * (error / self.log_spread.exp()).square() + self.log_spread).mean(1)
        return Losses(each.mean(), each.detach(), torch.zeros(len(x), dtype=torch.float64))

    @torch.no_grad()
    def generate(self, noise: SamplingRNG) -> Tensor:
        """Days (B, 1, 24), a sample for each of the noise."""
        unit = noise.start((HOURS,)).float()
        hours = [torch.zeros(len(unit)), torch.zeros(len(unit))]
        for hour in range(HOURS):
            mean = self.line(torch.stack(hours[-2:], dim=1))[:, 0]
            hours.append(mean + self.log_spread.exp() * unit[:, hour])
        return torch.stack(hours[2:], dim=1)[:, None]
