"""What the tables of a folder of recordings say: captions, classes, groups and splits, by the names of the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from core.data.captions import READERS, TEST, TRAIN, Columns, caption_of, columns_of, read_table
from core.data.captions import Row as TableRow
from core.data.dataset import DataError

KIND = "motion"


@dataclass(frozen=True)
class Row:
    """What a table says of one recording."""

    captions: tuple[str, ...] = ()
    label: str = ""
    group: str = ""
    test: bool | None = None


def rows_of(folder: Path) -> dict[str, Row]:
    """File names, with and without folder and ending -> what the tables at the top of a folder say; several captions
    of a file are kept. Empty where no table names files. Raises DataError for a table that cannot be read."""
    if not folder.is_dir():
        return {}
    found: dict[str, Row] = {}
    for table in sorted(file for file in folder.glob("*") if file.suffix.lower() in READERS and file.is_file()):
        try:
            rows = read_table(table)
        except DataError:
            if table.suffix.lower() != ".json":  # which need not be a table: settings of samples are JSON, too
                raise
            continue
        columns = columns_of(rows, KIND)
        about = [row for row in rows if columns.file and row.values.get(columns.file)]
        for row in about:
            name = PurePosixPath(str(row.values[columns.file or ""]))
            own = _row(row, columns, table)
            before = found.get(name.as_posix(), Row())
            whole = Row((*before.captions, *own.captions), own.label, own.group, own.test)
            for key in (name.as_posix(), name.with_suffix("").as_posix(), name.stem):
                found[key] = whole
    return found


def _row(row: TableRow, columns: Columns, table: Path) -> Row:
    def word(column: str | None) -> str:
        value = None if column is None else row.values.get(column)
        return "" if value is None else str(value).strip()

    caption, part = caption_of(row, columns), word(columns.part).casefold() or table.stem.casefold()
    test = True if part in TEST else False if part in TRAIN else None
    return Row(() if caption is None else (caption,), word(columns.label), word(columns.group), test)
