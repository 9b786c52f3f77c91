"""What the rows of a table say of files: captions, classes, numbers, groups, and which are of a test split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.data.captions import TEST, TRAIN, Columns, Row, classes_of, number, number_columns
from core.data.source import Facts

FEW, SHARE = 20, 0.5  # a column of labels has at most so many classes, or such a share of the examples
LABELLED = 0.75  # share of the rows that have a label, from which the others are left out


def is_test(name: str) -> bool | None:
    """Whether a name means a test split; None where it means neither that nor a training split."""
    word = name.casefold()
    return True if word in TEST else False if word in TRAIN else None


def is_labelled(rows: Sequence[Row], columns: Columns) -> bool:
    """Whether most rows of a table have a label."""
    return sum(_label(row, columns) is not None for row in rows) >= LABELLED * max(1, len(rows))


def missing(row: Row, caption: str | None, columns: Columns, labelled: bool) -> str | None:
    """The column that a row should have and does not."""
    if caption is None and columns.caption:
        return f"'{columns.caption[0]}'"
    return f"'{columns.label}'" if labelled and columns.label and _label(row, columns) is None else None


def _label(row: Row, columns: Columns) -> Any:
    value = row.values.get(columns.label or "")
    return None if value is None or str(value).strip() == "" else value


class Entry(NamedTuple):
    """A file, its caption, the row of its table, and whether that table is of a test split."""

    path: Path
    caption: str | None
    row: Row
    test: bool


def facts_of(entries: Sequence[Entry], columns: Columns) -> Facts:
    """What the columns of a table say of the files that can be used."""
    rows = [entry.row for entry in entries]
    captions = tuple(entry.caption for entry in entries if entry.caption is not None)
    numbers = number_columns(rows, columns)
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    if columns.label is not None:
        values = [row.values.get(columns.label) for row in rows]
        if _are_classes(values):
            labels, classes = classes_of(values)
        elif all(number(value) is not None for value in values):
            numbers[columns.label] = tuple(number(value) or 0.0 for value in values)
    groups = None
    if columns.group is not None:
        groups = tuple(str(row.values.get(columns.group) or row.place) for row in rows)
    elif len({entry.path for entry in entries}) < len(entries):  # several captions of one file
        groups = tuple(str(entry.path) for entry in entries)
    parts = [bool(is_test(str(row.values.get(columns.part or "")))) for row in rows]
    test = frozenset(index for index, entry in enumerate(entries) if entry.test or parts[index])
    return Facts(captions if columns.caption else None, labels, classes, numbers, groups, test)


def _are_classes(values: Sequence[Any]) -> bool:
    """Whether values are classes: all there, whole if they are numbers, and few."""
    if any(value is None or not isinstance(value, str | int | float) or str(value).strip() == "" for value in values):
        return False
    numbers = [number(value) for value in values]
    if all(value is not None for value in numbers) and not all(float(value or 0).is_integer() for value in numbers):
        return False
    return len(set(map(str, values))) <= max(FEW, SHARE * len(values))
