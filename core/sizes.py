"""The sizes that a recipe's network comes in, and what its training wants at each: what the fit chooses from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COST = 0.58  # the exponent with which the time of a sample grows with parameters, measured on U-Nets of 0.2 to 3 M


@dataclass(frozen=True)
class Law:
    """How a family's held-out loss falls: as ``P^-x + (r / S)^y`` with its parameters P and the samples S it sees."""

    parameters: float  # the exponent x
    samples: float  # the exponent y
    ratio: float  # r: the samples at which the second term is what the first is at one parameter

    def loss(self, parameters: float, samples: float) -> float:
        """The part of the loss that size and time decide, up to a factor and a constant."""
        return parameters**-self.parameters + (self.ratio / max(samples, 1.0)) ** self.samples

    def earns(self, parameters: float, samples: float) -> bool:
        """Whether so many samples are enough for a network of this size: a smaller one would gain nothing by its speed.

        The loss in a given time is least where ``x P^-x = COST y (r / S)^y``, as a sample costs ``P^COST``.
        """
        size = self.parameters * parameters**-self.parameters
        return size >= COST * self.samples * (self.ratio / max(samples, 1.0)) ** self.samples


@dataclass(frozen=True)
class Before:
    """A training that has to come first, such as that of an autoencoder."""

    argument: str  # of the recipe, where the path of its result is given
    recipe: str  # its dotted name
    folder: str  # within the run's folder
    share: float  # of the time for training
    shared: tuple[str, ...]  # arguments that both recipes have
    taken: Mapping[str, str]  # arguments of the recipe that are what was chosen for another of the first
    steps: int  # where no time is given


@dataclass(frozen=True)
class Sizes:
    """What there is to choose."""

    arguments: Sequence[Mapping[str, int]]  # of the network, from small to large
    law: Law
    rate: Callable[[Mapping[str, Any], int], float]  # arguments, batch -> learning rate
    dropout: Callable[[float], float]  # epochs that the run will make -> share
    before: Before | None = None
