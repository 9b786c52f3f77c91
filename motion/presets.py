"""What recipes from text to motion have in common, and the built-in procedural motions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch

from core.condition import CombinedConditioner, Conditioner, Valid
from core.nn.text import TextEncoder
from core.objective import LogNormal, Weight
from core.prompts import Captions, Conditions
from core.recipe import Recipe, Sampling, Training
from core.systems.diffusion import Diffusion
from core.systems.sampling import Guide
from core.text.words import Words
from motion.curves import FRAMES
from motion.evaluation import evaluator
from motion.features import Normal
from motion.foot_skate import foot_skate_cleanup
from motion.generator import Motions, motions, normal_of
from motion.modality import MotionModality
from motion.objectives import GeometricLoss
from motion.skeleton import HUMAN
from motion.smoothing import temporal_smoothing

SHAPE = (FRAMES - 1, HUMAN.features)
# Noise over signal: 263 numbers tell of each frame's pose many times over, so what is done still shows where noise is
# ten times the signal, and is decided there. A density for pictures hardly goes so far.
SEMANTIC_LEVELS = LogNormal(1.3, 2.0)


def text_conditioner(width: int, vector: int = 0, depth: int = 2, length: int = 40) -> Conditioner:
    """Captions through an encoder that learns with the model, and which frames exist."""
    return CombinedConditioner([Words(TextEncoder(width, depth, 4, length), vector), Valid()])


def clamped_weight(weight: Weight) -> Weight:
    """A weight that rises no further where noise is less than a quarter of the signal."""
    return lambda log_snr: weight(log_snr.clamp(max=2 * math.log(4)))


def geometric_loss(normal: Callable[[], Normal], weight: float) -> GeometricLoss | None:
    """Losses of what is seen first in a film: limbs that shake and feet that slide."""
    return GeometricLoss(normal, positions=0, velocities=weight, contacts=weight, local=True) if weight else None


def default_guidance() -> Guide:
    """Guidance whose last estimates have limbs that do not shake and feet that do not slide."""
    return foot_skate_cleanup(normal_of, within=temporal_smoothing())


def procedural_recipe(system: Callable[[], Diffusion], sampling: Sampling, training: Training, count: int) -> Recipe:
    """A recipe on ``count`` procedural motions. By default it samples captions that training never shows."""

    @cache
    def parts() -> tuple[Motions, Motions]:
        return motions(count)

    def validation(seed: int, samples: Sequence[int]) -> Conditions:
        held_out = parts()[1]
        found = held_out.get([number % len(held_out) for number in samples])
        return {name: found[name] for name in ("caption", "valid", "clip")}

    return Recipe(
        system,
        SHAPE,
        sampling,
        training,
        parts,
        MotionModality(normal_of, SHAPE[0]),
        Captions(validation, lambda count: {"valid": torch.ones(count, SHAPE[0], dtype=torch.bool)}),
        evaluate=lambda options: evaluator(*parts(), normal_of()),
    )
