"""Prompts: from what a person types, or from nothing, to the conditions that samples are made under.

Conditions are named as in a batch: "label" (B,), "number" (B, K), "caption" (list of str), "valid" (B, N) and what else
a system reads; "class_name" (list of str) says what a label is called, for those who see the samples.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Conditions = Mapping[str, Any]
SHOWN = 20  # names of classes in a message
CLASS_NAME = "class_name"  # the names of the labels, for sheets
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
    """A model of ``count`` classes: "3", "sneaker", or "0, bag" in turn. By default sample i has class i mod ``count``.

    names: of the classes, by label, where they have any; without regard to capitals. A name that is a number is a name
    first. Checkpoints of old recipes know the count alone. Raises ValueError for names that are not ``count``.
    """

    count: int
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.names and len(self.names) != self.count:
            raise ValueError(f"{self.count} classes have {len(self.names)} names: give each one")

    @classmethod
    def of(cls, names: Sequence[str]) -> Classes:
        """The classes of these names."""
        return cls(len(names), tuple(names))

    def default(self, seed: int, samples: Sequence[int]) -> Conditions:
        return self._conditions([number % self.count for number in samples])

    def parse(self, text: str, count: int) -> Conditions:
        """Commas or semicolons separate several. Raises ValueError for what is no class, the nearest name offered."""
        whole = self._known(text)  # a name may hold a comma
        parts = [text] if whole is not None else re.split("[,;]", text)
        labels = [self._label(part.strip()) for part in parts]
        return self._conditions(repeated(labels, count))

    def _label(self, word: str) -> int:
        found = self._known(word)
        if found is not None:
            return found
        if self.names and not word.isdecimal():
            folded = {name.casefold(): name for name in self.names}
            close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.5)
            shown = ", ".join(self.names[:SHOWN]) + (", ..." if len(self.names) > SHOWN else "")
            offer = f"did you mean '{folded[close[0]]}'?" if close else f"they are {shown}"
            raise ValueError(f"'{word}' is no class of this model: {offer}")
        raise ValueError(f"'{word}' asks for no class: give one of 0 to {self.count - 1}, or several as 0,1,2")

    def _known(self, word: str) -> int | None:
        word = word.strip()
        if word in self.names:
            return self.names.index(word)
        folded = [name.casefold() for name in self.names]
        if word.casefold() in folded:
            return folded.index(word.casefold())
        return int(word) if word.isdecimal() and int(word) < self.count else None

    def _conditions(self, labels: Sequence[int]) -> Conditions:
        import torch

        found: dict[str, Any] = {"label": torch.tensor(labels)}
        return found | {CLASS_NAME: [self.names[label] for label in labels]} if self.names else found


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


@dataclass(frozen=True)
class WithDefault:
    """Prompts whose default is that of ``chosen``, where that has all that their own default has."""

    prompts: Prompts
    chosen: Default

    def default(self, seed: int, samples: Sequence[int]) -> Conditions:
        own = self.prompts.default(seed, samples)
        named = own.keys() - {CLASS_NAME}
        found = self.chosen(seed, samples) if named else {}
        return {name: found[name] for name in named} if named <= found.keys() else own

    def parse(self, text: str, count: int) -> Conditions:
        return self.prompts.parse(text, count)
