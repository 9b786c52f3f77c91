"""System: what the training loop trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from core.objective import Losses
from core.random import TrainingRNG


class System(nn.Module, ABC):
    """What the training loop trains: anything that says what a batch costs."""

    @abstractmethod
    def loss(self, batch: Mapping[str, Any], rng: TrainingRNG, quantiles: Tensor | None = None) -> Losses:
        """The loss of a batch, a function of the weights, the batch and the draw."""

    def forward(self, batch: Mapping[str, Any], rng: TrainingRNG, quantiles: Tensor | None = None) -> Losses:
        """``loss``, under the name by which distributed wrappers call it."""
        return self.loss(batch, rng, quantiles)
