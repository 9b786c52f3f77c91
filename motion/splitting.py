"""Which rows of recordings are trained on and which are held out: whole groups, so that nothing is on both sides."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

Rows = tuple[int, int]  # from, to
HELD_OUT, MOST = 0.1, 0.25  # of the rows of a class, at least and at most
GAP = 40  # rows that belong to neither side where a recording is cut: two seconds
NONE: Rows = (0, 0)


def split(
    labels: Sequence[str], groups: Sequence[str], rows: Sequence[int], given: Sequence[bool | None]
) -> list[tuple[Rows, Rows]]:
    """Training and held-out rows of each recording, a function of names and lengths alone.

    Where a test split is given, it is held out and nothing else. Otherwise of each class whole groups are, in the order
    of a hash of their names, until a tenth of its rows is, and a quarter at most where groups are so small; of a class
    that is one group, the end of each recording.
    """
    if any(given):
        return [(NONE, (0, count)) if test else ((0, count), NONE) for count, test in zip(rows, given)]
    held_out, cut = _held_out(labels, groups, rows)
    found: list[tuple[Rows, Rows]] = []
    for group, count in zip(groups, rows):
        if group in held_out:
            found.append((NONE, (0, count)))
        elif group in cut and (start := count - int(2 * HELD_OUT * count)) - GAP > GAP:
            found.append(((0, start - GAP), (start, count)))
        else:
            found.append(((0, count), NONE))
    return found


def _held_out(labels: Sequence[str], groups: Sequence[str], rows: Sequence[int]) -> tuple[set[str], set[str]]:
    """The groups that are held out, and those of classes of which no group can be spared."""
    members: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # class -> group -> rows
    for label, group, count in zip(labels, groups, rows):
        members[label][group] += count
    held_out: set[str] = set()
    cut: set[str] = set()
    for label in sorted(members):
        sizes = members[label]
        total = sum(sizes.values())
        order = sorted(sizes, key=lambda group: hashlib.sha256(group.encode()).digest())
        found = sum(sizes[group] for group in order if group in held_out)
        for group in order:
            if found < HELD_OUT * total and group not in held_out and found + sizes[group] <= MOST * total:
                held_out.add(group)
                found += sizes[group]
        spare = [group for group in order if group not in held_out]
        if not found and len(spare) > 1:
            held_out.add(min(spare, key=lambda group: sizes[group]))
        elif not found:
            cut |= set(order)
    return held_out, cut
