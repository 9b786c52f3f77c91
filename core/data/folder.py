"""Folders of files as people have them: with a table, with a text beside each, in class folders, in train and test.

a table          any that ``core.data.captions`` reads and that names the files: metadata.csv, captions.csv, ...
a.txt            next to a.png: its caption
dog/a.png        the names of the folders are classes, where there are several
train/ test/     at any depth; test (or val) is never trained on

What cannot be used is left out with a sentence, unless hardly anything else is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from core.data.captions import (
    READERS,
    TEST,
    TRAIN,
    Columns,
    Row,
    caption_of,
    classes_of,
    columns_of,
    number,
    number_columns,
    read_table,
    read_text,
)
from core.data.dataset import DataError
from core.data.source import Facts, Kind
from core.data.survey import LeftOut

USUAL = ("metadata.jsonl", "metadata.csv")  # the tables that count where there are others
LINES = 20  # of a table that are read to see what it is about
FEW, SHARE = 20, 0.5  # a column of labels has at most so many classes, or such a share of the examples


@dataclass(frozen=True)
class FolderSource:
    """Files and what is known of them."""

    paths: tuple[Path, ...]
    facts: Facts = Facts()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def captioned(self) -> bool:
        """Whether each has a caption."""
        return self.facts.captions is not None

    def name(self, index: int) -> str:
        """The path of a file."""
        return str(self.paths[index])

    def open(self, index: int) -> BufferedReader:
        """The open file."""
        return self.paths[index].open("rb")

    def caption(self, index: int) -> str:
        """What it shows."""
        if self.facts.captions is None:
            raise DataError(f"{self.paths[index]} has no caption: add a table of captions, or a .txt file for each")
        return self.facts.captions[index]

    def some(self, indices: Sequence[int], left_out: Sequence[LeftOut] = ()) -> FolderSource:
        """Some of the files; ``left_out`` says why others are not among them."""
        paths = tuple(self.paths[index] for index in indices)
        return replace(self, paths=paths, facts=self.facts.some(indices), left_out=(*self.left_out, *left_out))


def files_of(path: Path, kind: Kind) -> list[Path]:
    """The files of a kind in a folder and in the folders in it, without hidden ones. Raises DataError for none."""
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in kind.suffixes
        and file.is_file()
        and not any(part.startswith(".") or part == "__MACOSX" for part in file.relative_to(path).parts)
    )
    if not files:
        endings = ", ".join(sorted(kind.suffixes))
        raise DataError(f"{path} holds no {kind.name}s: put {endings} files into it")
    return files


def open_folder(path: Path, kind: Kind) -> FolderSource:
    """The files of a kind in a folder and in the folders in it, with all that is known of them."""
    files = files_of(path, kind)
    names = _Names(files)
    tables = _tables_of(path, names, kind)
    found = _of_tables(tables, names, kind) if tables else _of_text_files(files)
    return _with_folders(path, found, not tables and not found.captioned)


def has_captions(path: Path, kind: Kind) -> bool:
    """Whether the files of a kind in a folder have captions, in a table or beside them."""
    return path.is_dir() and open_folder(path, kind).captioned


def _tables_of(path: Path, names: _Names, kind: Kind) -> list[Path]:
    """The tables of a folder that name files of a kind: those at its top, or else those of the folders in it.

    Raises DataError where several say the same.
    """
    usual = [path / name for name in USUAL if (path / name).exists()]
    if len(usual) > 1:
        raise DataError(f"{path} has both {' and '.join(USUAL)}: keep the one that is right")
    if usual:
        return usual
    for pattern in ("*", "*/*", "*/*/*"):
        found = [file for file in sorted(path.glob(pattern)) if file.suffix.lower() in READERS and file.is_file()]
        found = [file for file in found if not file.name.startswith(".")]
        about = [file for file in found if _names_files(file, names, kind)]
        beside = [file for file in about if file.parent == about[0].parent]
        if len(beside) > 1 and not all(_is_test(file.stem) is not None for file in beside):
            raise DataError(f"{path} has both {beside[0].name} and {beside[1].name}: keep the one that is right")
        if about:
            return about
    return []


def _names_files(table: Path, names: _Names, kind: Kind) -> bool:
    """Whether a table has a column that names files of the kind."""
    rows = read_table(table)[:LINES]
    column = columns_of(rows, kind.name).file
    return column is not None and any(names.find(table.parent, str(row.values.get(column))) for row in rows)


def _is_test(name: str) -> bool | None:
    """Whether a name means a test split; None where it means neither that nor a training split."""
    word = name.casefold()
    return True if word in TEST else False if word in TRAIN else None


class _Names:
    """Files by the names that tables have for them: paths, names alone, names without their ending."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = set(files)
        self.short: dict[str, list[Path]] = {}
        for file in files:
            for name in {file.name, file.stem}:
                self.short.setdefault(name, []).append(file)

    def find(self, folder: Path, name: str) -> Path | None:
        file = folder / name
        if file in self.files:
            return file
        same = self.short.get(Path(name).name, [])
        nearer = [file for file in same if folder in file.parents]
        return nearer[0] if len(nearer) == 1 else None


def _of_tables(tables: Sequence[Path], names: _Names, kind: Kind) -> FolderSource:
    left_out: list[LeftOut] = []
    found: dict[tuple[Path, str | None], Entry] = {}
    silent = dict.fromkeys(names.files)
    every: list[Row] = []
    for table in tables:
        rows = read_table(table)
        every += rows
        columns = columns_of(rows, kind.name)
        for row in rows:
            name, caption = row.values.get(columns.file or ""), caption_of(row, columns)
            if not isinstance(name, str | int) or not str(name):
                raise DataError(f"{row.place}, has no 'file_name': name the {kind.name} that it is about")
            file = names.find(table.parent, str(name))
            if file is None:
                why = f"is about {name}, which is no {kind.name} in this folder: add it, or remove the line"
                left_out.append(LeftOut(str(name), f"{row.place}, {why}"))
                continue
            silent.pop(file, None)
            if caption is None and columns.caption:
                why = f"has no '{columns.caption[0]}' for {name}: write its caption"
                left_out.append(LeftOut(str(file), f"{row.place}, {why}"))
            elif (file, caption) in found:
                left_out.append(LeftOut(str(file), f"{row.place}, is about {name} once more: keep one line for it"))
            else:
                found[file, caption] = Entry(file, caption, row, _is_test(table.stem) or False)
    shown = " or ".join(table.name for table in tables[:2])
    left_out += [LeftOut(str(file), f"{file} has no line in {shown}: give it one, or remove it") for file in silent]
    entries = list(found.values())
    paths = tuple(entry.path for entry in entries)
    return FolderSource(paths, _facts(entries, columns_of(every, kind.name)), tuple(left_out))


class Entry(NamedTuple):
    """A file, its caption, the row of its table, and whether that table is of a test split."""

    path: Path
    caption: str | None
    row: Row
    test: bool


def _facts(entries: Sequence[Entry], columns: Columns) -> Facts:
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
    parts = [bool(_is_test(str(row.values.get(columns.part or "")))) for row in rows]
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


def _of_text_files(files: Sequence[Path]) -> FolderSource:
    """The files with the texts beside them, or without captions where no file has one."""
    texts = {file: text for file in files if (text := file.with_suffix(".txt")).is_file()}
    if not texts:
        return FolderSource(tuple(files))
    captions, left_out = {}, []
    for file in files:
        if file not in texts:
            left_out.append(LeftOut(str(file), f"{file} has no caption: give it a .txt file of its name"))
        elif caption := read_text(texts[file]).strip():
            captions[file] = caption
        else:
            left_out.append(LeftOut(str(file), f"{texts[file]} is empty: write the caption of {file.name}"))
    return FolderSource(tuple(captions), Facts(tuple(captions.values())), tuple(left_out))


def _with_folders(path: Path, source: FolderSource, classes: bool) -> FolderSource:
    """The source with the split that folders called train and test say, and with ``classes`` those of other folders."""
    facts, notes = source.facts, source.notes
    parts: list[tuple[str, ...]] = [file.relative_to(path).parts[:-1] for file in source.paths]
    label: list[str] | None = None
    test = set(facts.test)
    while parts and all(parts):
        names = {names[0] for names in parts}
        if len(names) > 1 and all(_is_test(name) is not None for name in names):
            test |= {index for index, names in enumerate(parts) if _is_test(names[0])}
        elif len(names) > 1 and label is None:
            label = [names[0] for names in parts]
        elif len(names) > 1:
            break
        parts = [names[1:] for names in parts]
    if not all(parts) and any(parts) and label is None:
        notes = (*notes, "some files lie beside the folders of others, so that folders are no classes")
    if label is not None and classes:
        labels, names_of = classes_of(label)
        facts = replace(facts, labels=labels, classes=names_of)
    return replace(source, facts=replace(facts, test=frozenset(test)), notes=notes)
