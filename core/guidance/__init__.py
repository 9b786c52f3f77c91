"""Guidance: denoisers made of denoisers. They compose in any order and work on every schedule and tensor rank."""

from core.guidance.guided import Autoguided, Composed, Guided, PerpendicularNegative, plus_plus, substitute
from core.guidance.rules import LinearRule, Projected, Rescale, Rule, ZeroStar
from core.guidance.wrappers import (
    ClassifierGuided,
    DynamicThreshold,
    GuidanceInterval,
    StaticThreshold,
    X0Transform,
    ZeroVelocity,
    zero_star,
)

__all__ = [
    "Autoguided",
    "ClassifierGuided",
    "Composed",
    "DynamicThreshold",
    "GuidanceInterval",
    "Guided",
    "LinearRule",
    "PerpendicularNegative",
    "Projected",
    "Rescale",
    "Rule",
    "StaticThreshold",
    "X0Transform",
    "ZeroStar",
    "ZeroVelocity",
    "plus_plus",
    "substitute",
    "zero_star",
]
