"""Euler: x0 is constant over a step.

On every path this is DDIM with eta = 0 (2010.02502, equation 12), EDM's Euler (2206.00364), rectified flow's Euler
(2209.03003) and DPM-Solver++ of order one (2211.01095).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from core.denoiser import Bound
from core.sample.step import Level, NoiseSource, Step, toward
from core.sample.walk import Evaluation, one_step


def euler(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """Order 1, one evaluation a step."""
    return one_step(denoise, x, times, _constant)


def _constant(denoise: Bound, current: Evaluation, there: Level) -> Tensor:
    return toward(current.x, current.clean, current.level, there)
