"""Folders of files as people have them: with a table, with a text beside each, in class folders, in train and test.

a table          any that ``core.data.captions`` reads and that names the files: metadata.csv, captions.csv, ...
a.txt            next to a.png: its caption
dog/a.png        the names of the folders are classes, where there are several
train/ test/     at any depth; test (or val) is never trained on

What cannot be used is left out with a sentence, unless hardly anything else is there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from core.data.captions import (
    READERS,
    Columns,
    Row,
    caption_of,
    classes_of,
    columns_of,
    read_table,
    read_text,
)
from core.data.dataset import DataError
from core.data.entries import Entry, facts_of, is_labelled, is_test, missing
from core.data.source import Facts, Kind
from core.data.survey import LeftOut

USUAL = ("metadata.jsonl", "metadata.csv")  # the tables that count where there are others
FREE = frozenset({".json", ".jsonl"})
LINES = 20  # of a table that are read to see what it is about
FEW, SHARE = 20, 0.5  # a column of labels has at most so many classes, or such a share of the examples


@dataclass(frozen=True)
class FolderSource:
    """Files and what is known of them."""

    paths: tuple[Path, ...]
    facts: Facts = Facts()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    layout: str = "in a folder"  # in words

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


def open_folder(path: Path, kind: Kind) -> FolderSource:
    """The files of a kind in a folder and in the folders in it, with all that is known of them.

    Hidden ones are left aside. Raises DataError where there are none.
    """
    every = files_below(path, kind.suffixes | READERS.keys())
    files = [file for file in every if file.suffix.lower() in kind.suffixes]
    if not files:
        endings = ", ".join(sorted(kind.suffixes))
        raise DataError(f"{path} holds no {kind.name}s: put {endings} files into it")
    names = _Names(files)
    tables = _tables_of(path, [file for file in every if file.suffix.lower() in READERS], names, kind)
    found = _of_tables(tables, names, kind) if tables else _of_text_files(files)
    return _with_folders(path, found, not tables and not found.captioned)


def files_below(path: Path, suffixes: Collection[str]) -> list[Path]:
    """The files with some endings in a folder and in the folders in it, hidden ones left aside, by name.

    Links are followed, those to a folder above them once.
    """
    found: list[str] = []
    seen: set[str] = set()
    for folder, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith((".", "__MACOSX"))]
        if real not in seen:
            seen.add(real)
            found += [
                os.path.join(folder, name)
                for name in files
                if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
            ]
    return sorted(Path(name) for name in found if os.path.isfile(name))


class Table(NamedTuple):
    """A table that names files."""

    path: Path
    rows: list[Row]
    columns: Columns


def _tables_of(path: Path, candidates: Sequence[Path], names: _Names, kind: Kind) -> list[Table]:
    """The tables that name files of a kind: those with the usual names, or else those that lie highest.

    Raises DataError where several of one folder do, other than those of a training and a test split.
    """
    usual = [file for file in candidates if file.name in USUAL and file.parent == path]
    if len(usual) > 1:
        raise DataError(f"{path} has both {' and '.join(USUAL)}: keep the one that is right")
    if usual:
        return [_table(usual[0], kind)]
    for depth in sorted({len(file.parts) for file in candidates}):
        found = [table for file in candidates if len(file.parts) == depth for table in _naming(file, names, kind)]
        siblings = [table.path for table in found if table.path.parent == found[0].path.parent]
        if len(siblings) > 1 and not all(is_test(file.stem) is not None for file in siblings):
            raise DataError(f"{path} has both {siblings[0].name} and {siblings[1].name}: keep the one that is right")
        if found:
            return found
    return []


def _table(file: Path, kind: Kind) -> Table:
    rows = read_table(file)
    return Table(file, rows, columns_of(rows, kind.name))


def _naming(file: Path, names: _Names, kind: Kind) -> list[Table]:
    """The table in a file, if it has a column that names files of the kind."""
    try:
        table = _table(file, kind)
    except DataError:
        if file.suffix.lower() in FREE:  # which may be anything else
            return []
        raise
    column = table.columns.file
    if column is None or not any(names.find(file.parent, str(row.values.get(column))) for row in table.rows[:LINES]):
        return []
    return [table]


class _Names:
    """Files by the names that tables have for them: paths, names alone, names without their ending."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = set(files)
        self.short: dict[str, list[Path]] = {}
        for file in files:
            for name in {file.name, file.stem}:
                self.short.setdefault(name, []).append(file)

    def find(self, folder: Path, name: str) -> Path | None:
        name = name.replace("\\", "/")
        file = folder / name
        if file in self.files:
            return file
        same = self.short.get(Path(name).name, [])
        nearer = [file for file in same if folder in file.parents]
        return nearer[0] if len(nearer) == 1 else None


def _of_tables(tables: Sequence[Table], names: _Names, kind: Kind) -> FolderSource:
    left_out: list[LeftOut] = []
    found: dict[tuple[Path, str | None], Entry] = {}
    silent = dict.fromkeys(sorted(names.files))
    every: list[Row] = []
    for table, rows, columns in tables:
        every += rows
        labelled = is_labelled(rows, columns)
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
            if lacking := missing(row, caption, columns, labelled):
                why = f"has no {lacking} for {name}: write it, or remove the line"
                left_out.append(LeftOut(str(file), f"{row.place}, {why}"))
            elif (file, caption) in found:
                left_out.append(LeftOut(str(file), f"{row.place}, is about {name} once more: keep one line for it"))
            else:
                found[file, caption] = Entry(file, caption, row, is_test(table.stem) or False)
    shown = " or ".join(table.path.name for table in tables[:2])
    left_out += [LeftOut(str(file), f"{file} is not in {shown}: give it a line, or remove it") for file in silent]
    entries = sorted(found.values(), key=lambda entry: entry.path)  # whatever the order of the table is
    paths = tuple(entry.path for entry in entries)
    facts = facts_of(entries, columns_of(every, kind.name))
    return FolderSource(paths, facts, tuple(left_out), layout=f"with a table, {shown}")


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
    layout = "with a text beside each"
    return FolderSource(tuple(captions), Facts(tuple(captions.values())), tuple(left_out), layout=layout)


def _with_folders(path: Path, source: FolderSource, classes: bool) -> FolderSource:
    """The source with the split that folders called train and test say, and with ``classes`` those of other folders."""
    parts: list[tuple[str, ...]] = [file.relative_to(path).parts[:-1] for file in source.paths]
    test = set(source.facts.test)
    label: list[str] | None = None
    while parts and all(parts):
        names = {names[0] for names in parts}
        if len(names) > 1 and all(is_test(name) is not None for name in names):
            test |= {index for index, names in enumerate(parts) if is_test(names[0])}
            rest = [names[1:] for names in parts]
            if classes and label is None and _only_test_is_bare(rest, test):
                return _with_folders(path, _without_bare(source, rest), classes)
        elif len(names) > 1 and label is None:
            label = [names[0] for names in parts]
        elif len(names) > 1:
            break
        parts = [names[1:] for names in parts]
    facts = replace(source.facts, test=frozenset(test))
    if label is not None and classes:
        labels, names_of = classes_of(label)
        facts = replace(facts, labels=labels, classes=names_of)
        return replace(source, facts=facts, layout="in class folders")
    notes = source.notes
    if classes and not all(parts) and any(parts):
        notes = (*notes, "some files lie beside the folders of others, so that folders are no classes")
    return replace(source, facts=facts, notes=notes)


def _only_test_is_bare(rest: Sequence[tuple[str, ...]], test: Collection[int]) -> bool:
    """Whether what is trained on lies in class folders, and some of the test split in none."""
    bare = {index for index, names in enumerate(rest) if not names}
    return bool(bare) and bare <= set(test) and len({names[0] for names in rest if names}) > 1


def _without_bare(source: FolderSource, rest: Sequence[tuple[str, ...]]) -> FolderSource:
    """The source without the files of a test split that lie in no class folder, as competitions give them."""
    kept = [index for index, names in enumerate(rest) if names]
    note = f"{len(rest) - len(kept):,} files of the test split lie in no class folder, and are not used"
    paths = tuple(source.paths[index] for index in kept)
    return replace(source, paths=paths, facts=source.facts.some(kept), notes=(*source.notes, note))
