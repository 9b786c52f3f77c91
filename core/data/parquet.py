"""Tables in parquet that hold the files themselves, as data sets are published: bytes in a column, facts in others."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.captions import Row, caption_of, columns_of, plain_row
from core.data.dataset import DataError
from core.data.entries import Entry, facts_of, is_labelled, is_test, missing
from core.data.folder import files_below
from core.data.source import Facts, Kind
from core.data.survey import LeftOut


@dataclass(frozen=True)
class ParquetSource:
    """Files in the rows of tables: the column of bytes of each, read when it is asked for, and where each row lies."""

    names: tuple[str, ...]
    columns: tuple[Any, ...]  # of pyarrow, one for each table
    rows: tuple[tuple[int, int], ...]  # table and row of each example
    facts: Facts = Facts()
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def captioned(self) -> bool:
        """Whether each has a caption."""
        return self.facts.captions is not None

    def name(self, index: int) -> str:
        """The row and its table."""
        table, row = self.rows[index]
        return f"row {row} of {self.names[table]}"

    def open(self, index: int) -> io.BufferedReader:
        """The open file."""
        table, row = self.rows[index]
        return io.BufferedReader(io.BytesIO(_content(self.columns[table][row].as_py()) or b""))

    def caption(self, index: int) -> str:
        """What it shows."""
        if self.facts.captions is None:
            raise DataError(f"{self.name(index)} has no caption: add a column 'text'")
        return self.facts.captions[index]


def parquet_files(path: Path, kind: Kind) -> list[Path]:
    """The tables at a path: the path itself, or those in a folder that has no files of the kind; none otherwise."""
    if path.is_dir():
        found = files_below(path, {".parquet", *kind.suffixes})
        return found if all(file.suffix.lower() == ".parquet" for file in found) else []
    return [path] if path.suffix.lower() == ".parquet" and path.is_file() else []


def open_parquet(files: Sequence[Path], kind: Kind) -> ParquetSource:
    """The files of a kind in the rows of tables. Raises DataError for tables that hold none, and without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{files[0]} is read with pyarrow, which is not installed: pip install pyarrow") from error
    columns, entries, rows = [], list[Entry](), list[tuple[int, int]]()
    left_out: list[LeftOut] = []
    every: list[Row] = []
    for number, file in enumerate(files):
        try:
            table = pyarrow.parquet.read_table(file, memory_map=True)
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{file} cannot be read as parquet: write it again") from error
        name = _content_column(table)
        if name is None:
            raise DataError(f"{file} has no column of {kind.name}s: it has {', '.join(table.column_names)}")
        columns.append(table.column(name))
        classes = _class_names(table.schema.metadata)
        values = table.drop_columns([name]).to_pylist()
        found = [Row(f"{file}, row {row}", plain_row(_named(each, classes))) for row, each in enumerate(values)]
        every += found
        known = columns_of(found, kind.name)
        labelled, test = is_labelled(found, known), _of_test(file)
        for index, row in enumerate(found):
            caption = caption_of(row, known)
            if why := missing(row, caption, known, labelled):
                left_out.append(LeftOut(row.place, f"{row.place}, has no {why}: write it, or remove the row"))
                continue
            entries.append(Entry(Path(row.place), caption, row, test))
            rows.append((number, index))
    facts = facts_of(entries, columns_of(every, kind.name))
    return ParquetSource(tuple(map(str, files)), tuple(columns), tuple(rows), facts, tuple(left_out))


def _content(value: Any) -> bytes | None:
    """The bytes in a cell: themselves, or those of a record of bytes and a path."""
    found = value.get("bytes") if isinstance(value, Mapping) else value
    return found if isinstance(found, bytes) else None


def _content_column(table: Any) -> str | None:
    """The first column whose first cell holds bytes."""
    return next((name for name in table.column_names if len(table) and _content(table.column(name)[0].as_py())), None)


def _class_names(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Sequence[str]]:
    """The names of classes that the schema has for the numbers of some columns, as Hugging Face writes them."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: each["names"] for name, each in features.items() if isinstance(each, dict) and "names" in each}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _named(row: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row with names in the place of the numbers of classes."""
    return {
        name: classes[name][value]
        if name in classes and isinstance(value, int) and 0 <= value < len(classes[name])
        else value
        for name, value in row.items()
    }


def _of_test(file: Path) -> bool:
    """Whether a table is of a test split, by its name (test-00000-of-00001) or its folder."""
    return bool(is_test(file.stem.partition("-")[0])) or bool(is_test(file.parent.name))
