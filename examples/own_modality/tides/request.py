"""What tides are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.flags import option
from core.model import Model, OnStep, Request

if TYPE_CHECKING:
    from torch import Tensor

    from core.random import SamplingRNG


@dataclass(frozen=True)
class TideRequest(Request):
    """A request for days."""

    spring: float = option(1.0, "how much higher than usual the tide is: 1.5 at new and full moon")

    def draw(self, model: Model, noise: SamplingRNG, on_step: OnStep | None = None) -> tuple[Tensor, Mapping[str, Any]]:
        """Days (B, 1, 24), walked by a sampler or continued hour by hour."""
        from tides.systems import Autoregression

        if isinstance(model.system, Autoregression):
            return self.spring * model.system.generate(noise), {}
        x, conditions = super().draw(model, noise, on_step)
        return self.spring * x, conditions


REQUEST = TideRequest
