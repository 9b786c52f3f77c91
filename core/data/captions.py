"""Tables that say what files are: captions, classes, numbers, groups and splits, in columns that have the usual names.

.csv .tsv        a header, one file a row; separated by commas, semicolons or tabs
.jsonl .json     an object a line, or a list of objects
.parquet         with pyarrow
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from core.data.dataset import DataError

# What a column is called, in small letters; the first that is there counts.
FILES = ("file_name", "filename", "file", "path", "filepath", "file_path", "name", "id")  # and the name of the kind
CAPTIONS = ("text", "caption", "captions", "description", "prompt", "title", "sentence", "alt_text", "alt")
LABELS = ("label", "class", "class_name", "category", "labels", "target", "class_id")
GROUPS = ("group", "subject", "scene", "speaker", "patient", "actor", "session", "video")  # and with _id or _name
PARTS = ("split", "part", "subset", "partition")
UNUSED = ("", "index", "unnamed_0", "width", "height")  # numbers that say nothing of what is shown

TRAIN = frozenset({"train", "training"})
TEST = frozenset({"test", "testing", "val", "valid", "validation", "dev", "eval", "held_out"})


class Row(NamedTuple):
    """A row of a table, the names of its columns in small letters, and where it stands, for messages."""

    place: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """Which columns of a table say what; None for what none says."""

    file: str | None
    caption: tuple[str, ...]
    label: str | None
    group: str | None
    part: str | None


def columns_of(rows: Sequence[Row], kind: str) -> Columns:
    """The columns of a table about files of a kind, by their names."""
    names = {name: None for row in rows for name in row.values}
    files = (*FILES, *(f"{kind}{end}" for end in ("", "_path", "_file", "_name", "_id")), "img", "img_path")
    groups = [f"{name}{end}" for name in GROUPS for end in ("", "_id", "_name")]
    return Columns(
        _first(files, names),
        tuple(name for name in CAPTIONS if name in names),
        _first(LABELS, names),
        _first(groups, names),
        _first(PARTS, names),
    )


def _first(names: Sequence[str], known: Mapping[str, None]) -> str | None:
    return next((name for name in names if name in known), None)


def read_table(path: Path) -> list[Row]:
    """The rows of a table. Raises DataError, with the line, where it cannot be read."""
    return [Row(place, plain_row(values)) for place, values in READERS[path.suffix.lower()](path)]


def plain_row(values: Mapping[Any, Any]) -> dict[str, Any]:
    """A row with the names of its columns in small letters, and one sign for all that are no letters."""
    return {re.sub(r"\W+", "_", str(name).strip().casefold()): value for name, value in values.items()}


Rows = Iterator[tuple[str, Mapping[Any, Any]]]


def _jsonl(table: Path) -> Rows:
    for number, line in enumerate(read_text(table).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{table}, line {number}"
        row = _parsed(line, place, "one object a line")
        if not isinstance(row, dict):
            raise DataError(f"{place}, is not a JSON object: write one object a line")
        yield place, row


def _json(table: Path) -> Rows:
    found = _parsed(read_text(table), str(table), "a list of objects")
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        found = [{"file_name": name, "text": text} for name, text in found.items()]
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise DataError(f"{table} is no list of JSON objects: write one object for each file")
    for number, row in enumerate(found):
        yield f"{table}, entry {number}", row


def _parsed(text: str, place: str, wanted: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{place}, is not JSON: write {wanted}") from error


def _csv(table: Path) -> Rows:
    text = read_text(table)
    header = text.partition("\n")[0]
    separator = max(",;\t|", key=header.count)
    rows = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = next(rows, [])
        for row in rows:
            if not row:
                continue
            place = f"{table}, line {rows.line_num}"
            if len(row) > len(names):
                raise DataError(f"{place}, has {len(row)} fields for {len(names)} columns: put quotes around its text")
            yield place, dict(zip_longest(names, row))
    except csv.Error as error:
        raise DataError(f"{table}, line {rows.line_num}, is not CSV ({error}): correct the quotes") from error


def _parquet(table: Path) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{table} is read with pyarrow, which is not installed: pip install pyarrow") from error
    try:
        found = pyarrow.parquet.read_table(table).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{table} cannot be read as parquet: write it again") from error
    for number, row in enumerate(found):
        yield f"{table}, row {number}", row


READERS: Mapping[str, Callable[[Path], Rows]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".parquet": _parquet,
}


def caption_of(row: Row, columns: Columns) -> str | None:
    """The caption in a row; None where there is none."""
    found = next((row.values[name] for name in columns.caption if row.values.get(name) is not None), None)
    return found.strip() or None if isinstance(found, str) else None


def number_columns(rows: Sequence[Row], columns: Columns) -> dict[str, tuple[float, ...]]:
    """The columns that hold a finite number in every row, other than those that say something else or count rows."""
    taken = {columns.file, columns.label, columns.group, columns.part, *columns.caption, *FILES, *UNUSED}
    found = {}
    for name in rows[0].values if rows else ():
        values = [] if name in taken else [number(row.values.get(name)) for row in rows]
        if values and None not in values:
            found[name] = tuple(value for value in values if value is not None)
    return found


def number(value: Any) -> float | None:
    """A finite number, or the text of one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) < float("inf") else None


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts "2" before "10", and numbers before words."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def classes_of(values: Sequence[Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The label of each value and the names of the classes, in the order of numbers, then of the alphabet."""
    words = [_name(value) for value in values]
    names = sorted(set(words), key=lambda name: (natural(name), name))
    label = {name: number for number, name in enumerate(names)}
    return tuple(label[word] for word in words), tuple(names)


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def read_text(path: Path) -> str:
    """A text in UTF-8. Raises DataError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: save it again as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from error
