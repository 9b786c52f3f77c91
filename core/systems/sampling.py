"""Sampling: sampler, grid, steps and guidance of a model, unless asked otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.cond import Cond
from core.denoiser import DenoiserLike
from core.grid import Grid
from core.guidance import Guided
from core.sample.step import Sampler

Guide = Callable[[DenoiserLike, Cond, float], DenoiserLike]  # denoiser, null condition, scale -> the guided denoiser


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled unless asked otherwise."""

    sampler: Sampler
    grid: Grid
    steps: int
    guidance: float = 1.0
    guide: Guide = Guided

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampling takes at least 1 step, not {self.steps}")
