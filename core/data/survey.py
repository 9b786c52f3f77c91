"""What a folder or file of data is, before anything is trained on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Shape = tuple[int, ...]
Track = Callable[[Sequence[Any], str], Iterable[Any]]  # items, what is done with them -> the items, progress shown


class LeftOut(NamedTuple):
    """An example that cannot be used, and the sentence that says why."""

    name: str
    why: str


@dataclass(frozen=True)
class Survey:
    """What data are. A file that two examples share counts twice; what was left out counts nowhere."""

    kind: str  # in words: "class folders of pictures"
    count: int  # examples that can be used, those of a given test split with them
    shapes: Mapping[Shape, int]  # (C, H, W) of pictures, (T, D) or (T,) of motions -> how many
    classes: tuple[str, ...] = ()  # by label
    members: tuple[int, ...] = ()  # examples of each class
    captioned: int = 0  # examples with a caption
    captions: int = 0  # that differ
    numbers: tuple[str, ...] = ()  # columns of a table that hold a number for each example
    groups: int = 0  # which are kept on one side of a split; 0 where every example is alone
    test: int = 0  # examples of a given test split, which are never trained on
    duplicates: tuple[tuple[str, ...], ...] = ()  # names of examples whose content is the same, a set each
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = field(default=())  # what else a person should know, a sentence each


def report(path: object, left_out: Sequence[LeftOut], kept: int) -> None:
    """Say on stderr what training leaves out of some data, if anything: the first of it, and where the rest is."""
    if left_out:
        total = len(left_out) + kept
        print(f"{len(left_out)} of {total} are left out, the first because {left_out[0].why}", file=sys.stderr)
        print(f"`langevin data {path}` lists all", file=sys.stderr)


def plainly(items: Sequence[Any], what: str) -> Iterable[Any]:
    """A ``Track`` that shows nothing."""
    return items
