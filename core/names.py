"""Names as people type them: the nearest known one is offered when a name is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that stands for nothing; the message offers the nearest."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to ``name``, or None when nothing is close; of several, one with the same first letter."""
    typed, names = name.lower(), {k.lower(): k for k in reversed(list(known))}
    found = difflib.get_close_matches(typed, names, n=3, cutoff=0.5)

    def close(other: str) -> tuple[float, bool]:
        return difflib.SequenceMatcher(None, other, typed).ratio(), other[:1] == typed[:1]

    return names[max(found, key=close)] if found else None


def look_up(what: str, name: str, table: Mapping[str, T], see: str) -> T:
    """The entry called ``name``; raises UnknownNameError with the nearest name and where to see all of them."""
    if name in table:
        return table[name]
    near = nearest(name, list(table))
    offer = f"did you mean '{near}'?" if near else f"run `{see}` to see them all."
    raise UnknownNameError(f"there is no {what} called '{name}': {offer}")
