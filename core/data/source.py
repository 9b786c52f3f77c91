"""Examples by index, still encoded, and what is known of them: of a folder, of tar shards, or some of either.

What the files are, pictures, films or sounds, is nothing to a source: a domain hands in a ``Kind`` and decodes them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedReader
from typing import Any, Protocol

import torch

from core.data.dataset import DataError
from core.data.survey import LeftOut


@dataclass(frozen=True)
class Kind:
    """What the files of a source are called in messages, and how their names end, in small letters with the dot."""

    name: str
    suffixes: frozenset[str]


@dataclass(frozen=True)
class Facts:
    """What is known of examples beside their content, a row for each; None where nothing is."""

    captions: Sequence[str] | None = None
    labels: Sequence[int] | None = None
    classes: tuple[str, ...] = ()  # names, by label
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)  # by the name of their column
    groups: Sequence[str] | None = None  # examples of one group lie on one side of a split
    test: frozenset[int] = frozenset()  # those of a given test split

    def some(self, indices: Sequence[int]) -> Facts:
        """The facts of some examples, in this order."""

        def rows(values: Sequence[Any] | None) -> Sequence[Any] | None:
            return None if values is None else tuple(values[index] for index in indices)

        numbers = {name: tuple(values[index] for index in indices) for name, values in self.numbers.items()}
        test = frozenset(row for row, index in enumerate(indices) if index in self.test)
        return Facts(rows(self.captions), rows(self.labels), self.classes, numbers, rows(self.groups), test)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """What a batch has of some examples: "caption", "label" and "number" (B, columns)."""
        found: dict[str, Any] = {}
        if self.numbers:
            rows = [[values[index] for values in self.numbers.values()] for index in indices]
            found["number"] = torch.tensor(rows, dtype=torch.float32)
        if self.labels is not None:
            found["label"] = torch.tensor([self.labels[index] for index in indices], dtype=torch.long)
        if self.captions is not None:
            found["caption"] = [self.captions[index] for index in indices]
        return found


class Source(Protocol):
    """Examples by index, still encoded."""

    @property
    def facts(self) -> Facts:
        """What is known of them without reading them."""

    @property
    def captioned(self) -> bool:
        """Whether ``caption`` has one for each."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages call a file."""

    def open(self, index: int) -> BufferedReader:
        """The open file, to be closed by the caller."""

    def caption(self, index: int) -> str:
        """What it shows. Raises DataError where there is none, or it cannot be read."""


@dataclass(frozen=True)
class Part:
    """Some files of a source."""

    source: Source
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def facts(self) -> Facts:
        """What is known of them."""
        return self.source.facts.some(self.indices)

    @property
    def captioned(self) -> bool:
        """Whether each has a caption."""
        return self.source.captioned

    def name(self, index: int) -> str:
        """What messages call a file."""
        return self.source.name(self.indices[index])

    def open(self, index: int) -> BufferedReader:
        """The open file."""
        return self.source.open(self.indices[index])

    def caption(self, index: int) -> str:
        """What it shows."""
        return self.source.caption(self.indices[index])


def split_source(source: Source, held_out: float = 0.1) -> tuple[Part, Part]:
    """A training part and a held-out part: a given test split, or else a fixed shuffle of the groups."""
    kept, out = divided_by(source.facts, len(source), held_out)
    return Part(source, kept), Part(source, out)


def divided_by(
    facts: Facts, count: int, held_out: float = 0.1, same: Sequence[Sequence[int]] = ()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which examples are trained on, and which are held out: those of a given test split, or else whole groups.

    same: sets of examples whose content is the same. Those that a given test split has too are not trained on.
    """
    if facts.test:
        known = {index for rows in same if facts.test & set(rows) for index in rows}
        kept = tuple(index for index in range(count) if index not in facts.test | known)
        if not kept:
            raise DataError("every example is of the test split: add some to train on")
        return kept, tuple(sorted(facts.test))
    return divided(count, held_out, grouped(facts, count, same))


def divided(
    count: int, held_out: float = 0.1, groups: Sequence[int] | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of ``count`` examples are trained on, and which are held out, by a fixed shuffle; at least one of each.

    groups: a number for each example; those of one group lie on one side. Raises DataError for fewer than two.
    """
    if count < 2:
        raise DataError("one example cannot be split into a training and a held-out part: give at least two")
    wanted = max(1, min(count - 1, round(count * held_out)))
    if groups is None or len(set(groups)) == count:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
        return tuple(order[wanted:]), tuple(order[:wanted])
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    if len(members) < 2:
        raise DataError("all examples are of one group, which cannot be split: give a test split, or other groups")
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [members[key] for key in members]
    out: list[int] = []
    chosen: set[int] = set()
    for number in order:
        # A group is taken where it brings the held-out part nearer to its size, so that a large one does not fill it.
        if len(chosen) < len(members) - 1 and (
            not out or abs(len(out) + len(rows[number]) - wanted) < wanted - len(out)
        ):
            out += rows[number]
            chosen.add(number)
    if not chosen:  # every group is larger than twice what is wanted
        chosen = {min(range(len(rows)), key=lambda number: len(rows[number]))}
        out = [index for number in chosen for index in rows[number]]
    kept = [index for number in order if number not in chosen for index in rows[number]]
    return tuple(kept), tuple(out)


def grouped(facts: Facts, count: int, same: Sequence[Sequence[int]] = ()) -> list[int] | None:
    """The group of each example, by number: that of its column, joined with examples of the same content or caption.

    Captions that are the same but for capitals and numbers ("wolf 2") count as one; not so where captions are few and
    say no more than a class does. None where every example is alone.
    """
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    keys: list[Sequence[str]] = [] if facts.groups is None else [facts.groups]
    if facts.groups is None and facts.captions is not None:
        plain = [plain_caption(caption) for caption in facts.captions]
        keys += [plain] if 2 * len(set(plain)) >= count else []
    first: dict[tuple[int, str], int] = {}
    for number, values in enumerate(keys):
        for index, value in enumerate(values):
            parent[root(index)] = root(first.setdefault((number, value), index))
    for rows in same:
        for index in rows[1:]:
            parent[root(index)] = root(rows[0])
    found = [root(index) for index in range(count)]
    return found if len(set(found)) < count else None


def plain_caption(caption: str) -> str:
    """A caption without what tells apart variants of one thing: capitals, digits and signs."""
    return " ".join(re.findall(r"[^\W\d_]+", caption.casefold())) or caption


def check_left_out(left_out: Sequence[LeftOut], kept: int) -> None:
    """Raises DataError, with the sentence of the first that was left out, where they are more than a quarter of all."""
    if 3 * len(left_out) > kept:
        others = len(left_out) - 1
        more = f" (and {others} more cannot be used: `langevin data` lists them)" if others else ""
        raise DataError(f"{left_out[0].why}{more}")


def fingerprint(source: Source, index: int, settings: str) -> bytes:
    """SHA-256 of a file, its caption and the settings it is decoded with."""
    with source.open(index) as file:
        content = hashlib.file_digest(file, "sha256").digest()
    caption = source.caption(index) if source.captioned else ""
    return hashlib.sha256(content + f"{settings} {caption}".encode()).digest()
