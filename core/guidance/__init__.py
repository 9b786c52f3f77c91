"""Guidance: denoisers made of denoisers. They compose in any order and work on every schedule and tensor rank."""

from core.guidance.guided import Autoguided, Composed, Guided, PerpendicularNegative, plus_plus, substitute
from core.guidance.rules import Linear, Projected, Rescale, Rule, ZeroStar
from core.guidance.wrappers import ClassifierGuided, Dynamic, Interval, Static, Still, Thresholded, zero_star

__all__ = [
    "Autoguided",
    "ClassifierGuided",
    "Composed",
    "Dynamic",
    "Guided",
    "Interval",
    "Linear",
    "PerpendicularNegative",
    "Projected",
    "Rescale",
    "Rule",
    "Static",
    "Still",
    "Thresholded",
    "ZeroStar",
    "plus_plus",
    "substitute",
    "zero_star",
]
