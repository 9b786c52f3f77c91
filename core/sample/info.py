"""What is claimed of a sampler, so that the certificate can hold it to its word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.sample.step import Sampler


@dataclass(frozen=True)
class SamplerInfo:
    """A sampler with its options bound, and its claims."""

    sampler: Sampler
    order: int  # the error falls as steps^-order; for stochastic samplers in law (weak order)
    evaluations: int  # of the denoiser, in a step between two levels of finite log-SNR
    start: int = 0  # further evaluations that warm up a multistep method
    stochastic: bool = False
    at_tolerance: Callable[[float], Sampler] | None = None  # of an adaptive sampler: it again, with another tolerance

    @property
    def adaptive(self) -> bool:
        """Whether it takes only the two ends from its times and chooses its own steps."""
        return self.at_tolerance is not None

    def count(self, steps: int, edges: int = 1) -> int:
        """Evaluations in all; ``edges`` is the number of steps that leave pure noise or reach clean data: one each."""
        inner = steps - edges
        return edges + inner * self.evaluations + (self.start if inner > 0 else 0)
