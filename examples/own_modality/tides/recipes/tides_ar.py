"""Tides, hour by hour: an autoregressive model of the same days."""

from __future__ import annotations

from core.grid import karras
from core.recipe import Recipe, Sampling, Training
from core.sample.heun import heun
from tides.data import Days, evaluate
from tides.modality import MODALITY
from tides.systems import Autoregression


def tiny(steps: int = 300) -> Recipe:
    """One day, every hour after the two before it."""
    sampling, training = Sampling(heun, karras, steps=8), Training(16, steps, lr=2e-2)
    parts = (Days(), Days(16, first=64))
    return Recipe(
        Autoregression, (1, 24), sampling, training, lambda: parts, MODALITY, evaluate=lambda options: evaluate
    )
