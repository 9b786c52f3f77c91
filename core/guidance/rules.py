"""Rules: how a wanted and an unwanted estimate become one.

The plain rule is a line through both, ``unwanted + scale (wanted - unwanted)``: scale 1 is the wanted one, more goes
beyond it. It is the same line in x0, noise, velocity and v, because all are affine in x0 with the same coefficients for
both. The other rules bend the line by norms and angles, which are not the same in all: they name their ``space``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from core.prediction import X0, Epsilon, FlowVelocity, Prediction

Combine = Callable[[Tensor, Tensor, Tensor | float], Tensor]  # wanted, unwanted (B, ...), scale -> guided (B, ...)


class Rule(Protocol):
    """A rule that combines two estimates."""

    @property
    def space(self) -> Prediction:
        """The prediction in which the estimates are combined."""

    def start(self) -> Combine:
        """The rule for one trajectory; what a rule remembers lives in what this returns."""


@dataclass(frozen=True)
class LinearRule:
    """``unwanted + scale (wanted - unwanted)`` (2207.12598, equation 6, with scale = 1 + w)."""

    space: Prediction = field(default_factory=X0)

    def start(self) -> Combine:
        return line


@dataclass(frozen=True)
class Rescale:
    """The line, its deviation brought back to the wanted estimate's by a fraction ``phi`` (2305.08891, section 3.4).

    ``space`` is the model's own prediction; a model that starts at pure noise predicts v, and then so must this.
    """

    phi: float = 0.7
    space: Prediction = field(default_factory=Epsilon)

    def __post_init__(self) -> None:
        if not 0 <= self.phi <= 1:
            raise ValueError(f"rescale's phi must be in [0, 1], not {self.phi}")

    def start(self) -> Combine:
        return self._combine

    def _combine(self, wanted: Tensor, unwanted: Tensor, scale: Tensor | float) -> Tensor:
        guided = line(wanted, unwanted, scale)
        size, aim = _deviation(guided), _deviation(wanted)
        # A constant sample, such as one of a single number, has no deviation to bring back.
        factor = torch.where(size > 0, aim / size, torch.ones_like(size))
        return guided * (1 - self.phi + self.phi * factor).to(guided.dtype)


@dataclass(frozen=True)
class Projected:
    """Adaptive projected guidance (2410.02416, algorithm 1): what of the difference is orthogonal to ``wanted``.

    The difference gets a (negative) ``momentum``, is shortened to the norm ``limit`` and loses all but a fraction
    ``parallel`` of its component along the wanted estimate, which is what oversaturates. The momentum counts
    evaluations: with a sampler that makes several a step, bring it closer to 0.
    """

    parallel: float = 0.0
    limit: float = math.inf
    momentum: float = -0.5
    space: Prediction = field(default_factory=X0)

    def __post_init__(self) -> None:
        if not (self.limit > 0 and -1 < self.momentum < 1):
            raise ValueError("projected guidance needs a limit above 0 and a momentum between -1 and 1")

    def start(self) -> Combine:
        average: Tensor | None = None

        def combine(wanted: Tensor, unwanted: Tensor, scale: Tensor | float) -> Tensor:
            nonlocal average
            difference = _wide(wanted - unwanted)
            average = difference if average is None else difference + self.momentum * average
            aim = _wide(wanted)
            change = average * (self.limit / _dot(average, average).sqrt()).clamp(max=1)
            along = _ratio(_dot(change, aim), _dot(aim, aim)) * aim
            change = (change - along + self.parallel * along).to(wanted.dtype)
            return wanted + (scale - 1) * change

        return combine


@dataclass(frozen=True)
class ZeroStar:
    """CFG-Zero*: the unwanted velocity is first scaled to be nearest to the wanted one (2503.18886, equation 10).

    The paper also leaves the first steps still: see ``Still``.
    """

    space: Prediction = field(default_factory=FlowVelocity)

    def start(self) -> Combine:
        return self._combine

    def _combine(self, wanted: Tensor, unwanted: Tensor, scale: Tensor | float) -> Tensor:
        near, far = _wide(wanted), _wide(unwanted)
        best = _ratio(_dot(near, far), _dot(far, far)).to(wanted.dtype)
        return line(wanted, best * unwanted, scale)


def line(wanted: Tensor, unwanted: Tensor, scale: Tensor | float) -> Tensor:
    """``unwanted + scale (wanted - unwanted)``."""
    return unwanted + scale * (wanted - unwanted)


def perpendicular(change: Tensor, to: Tensor) -> Tensor:
    """The part of ``change`` (B, ...) orthogonal, sample by sample, to another tensor (B, ...)."""
    change_wide, to_wide = _wide(change), _wide(to)
    return (change_wide - _ratio(_dot(change_wide, to_wide), _dot(to_wide, to_wide)) * to_wide).to(change.dtype)


def _wide(value: Tensor) -> Tensor:
    # Sums over a sample overflow in half precision.
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, (B, 1, ...)."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def _deviation(value: Tensor) -> Tensor:
    return _wide(value).std(dim=tuple(range(1, value.ndim)), correction=0, keepdim=True)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where the denominator is."""
    return numerator / denominator.where(denominator > 0, torch.ones_like(denominator))
