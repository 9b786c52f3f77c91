"""Prompts: from what a person types, or from nothing, to the conditions that samples are made under.

Conditions are named as in a batch: "label" (B,), "number" (B, K), "caption" (list of str), "valid" (B, N) and what else
a system reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Conditions = Mapping[str, Any]
Default = Callable[[int, Sequence[int]], Conditions]  # seed, sample numbers -> their conditions


class Prompts(Protocol):
    """What a model may be asked for."""

    def default(self, seed: int, samples: Sequence[int]) -> Conditions:
        """The conditions of some samples when nothing is typed, as in sheets and in ``langevin evaluate``."""

    def parse(self, text: str, count: int) -> Conditions:
        """What was typed, for ``count`` samples. Raises ValueError, in one sentence, for what it cannot mean."""


@dataclass(frozen=True)
class Unconditional:
    """A model that is asked for nothing."""

    def default(self, seed: int, samples: Sequence[int]) -> Conditions:
        return {}

    def parse(self, text: str, count: int) -> Conditions:
        raise ValueError("this model is unconditional: leave --prompt and --negative-prompt out")


@dataclass(frozen=True)
class Classes:
    """A model of ``count`` classes: "3", or "0,1,2" in turn. By default sample i is of class i mod ``count``."""

    count: int
    names: Sequence[str] = ()

    def default(self, seed: int, samples: Sequence[int]) -> Conditions:
        import torch

        return {"label": torch.tensor([number % self.count for number in samples])}

    def parse(self, text: str, count: int) -> Conditions:
        import torch

        words = text.split(",")
        if not all(word.strip().isdecimal() and int(word) < self.count for word in words):
            raise ValueError(f"'{text}' asks for no class: give one of 0 to {self.count - 1}, or several as 0,1,2")
        return {"label": torch.tensor(repeated([int(word) for word in words], count))}


@dataclass(frozen=True)
class Numbers:
    """A model of numbers with usual ranges (lowest, highest): "0.5, 12", or several in turn with semicolons.

    By default they are uniform in their ranges.
    """

    ranges: tuple[tuple[float, float], ...]

    def default(self, seed: int, samples: Sequence[int]) -> Conditions:
        import torch

        from core.random import Stream, uniform

        low, high = torch.tensor(self.ranges, dtype=torch.float64).T
        share = uniform(seed, samples, Stream.LABEL, 0, (len(self.ranges),))
        return {"number": torch.lerp(low.expand_as(share), high.expand_as(share), share).float()}

    def parse(self, text: str, count: int) -> Conditions:
        import torch

        count_each = len(self.ranges)
        try:
            rows = [[float(word) for word in part.split(",")] for part in split(text)]
        except ValueError:
            rows = []
        if not rows or any(len(row) != count_each or not all(map(math.isfinite, row)) for row in rows):
            raise ValueError(f"'{text}' asks for no numbers: give {count_each} numbers, separated by commas")
        return {"number": torch.tensor(repeated(rows, count))}


@dataclass(frozen=True)
class Captions:
    """A model of captions: one, or several in turn with semicolons between them.

    validation: the conditions by default; extra: further conditions of ``count`` samples, such as their length.
    """

    validation: Default
    extra: Callable[[int], Conditions] = lambda count: {}

    def default(self, seed: int, samples: Sequence[int]) -> Conditions:
        return self.validation(seed, samples)

    def parse(self, text: str, count: int) -> Conditions:
        return {"caption": repeated(split(text), count), **self.extra(count)}


def split(text: str) -> list[str]:
    """The prompts in "one; another"."""
    return [part.strip() for part in text.split(";")]


def repeated(values: Sequence[Any], count: int) -> list[Any]:
    """``count`` values, taken in turn."""
    return [values[i % len(values)] for i in range(count)]


def empty_captions(seed: int, samples: Sequence[int]) -> Conditions:
    """The empty prompt for each sample."""
    return {"caption": [""] * len(samples)}
