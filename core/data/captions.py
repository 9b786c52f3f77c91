"""Folders of captioned files. The captions are in one of three places, of which a folder has exactly one:

metadata.jsonl   one {"file_name": "a.png", "text": "a red 7"} a line; "caption" will do for "text"
metadata.csv     a header with the same names, one file a row
a.txt            next to a.png
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, StringIO
from pathlib import Path
from typing import Any

from core.data.dataset import DataError
from core.data.source import Kind

CAPTIONS = ("text", "caption")  # what a caption is called in metadata; the first that is there
TABLES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class CaptionedFolder:
    """Files and what they show or sound like."""

    paths: tuple[Path, ...]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path of a file."""
        return str(self.paths[index])

    def open(self, index: int) -> BufferedReader:
        """The open file."""
        return self.paths[index].open("rb")

    def caption(self, index: int) -> str:
        """What it shows."""
        return self.captions[index]


def open_folder(path: Path, kind: Kind) -> CaptionedFolder:
    """The files of a kind in a folder and in the folders in it, each with its caption.

    Raises DataError, in one sentence, where a file has no caption or a caption no file.
    """
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in kind.suffixes
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        endings = ", ".join(sorted(kind.suffixes))
        raise DataError(f"{path} holds no {kind.name}s: put {endings} files and their captions into it")
    tables = [path / name for name in TABLES if (path / name).exists()]
    if len(tables) > 1:
        raise DataError(f"{path} has both {' and '.join(TABLES)}: keep the one that is right")
    found = _of_table(tables[0], files, kind) if tables else _of_text_files(path, files, kind)
    return CaptionedFolder(tuple(files), tuple(found[file] for file in files))


def has_captions(path: Path, kind: Kind) -> bool:
    """Whether a folder holds a table of captions, or a file of a kind with a text file of the same name."""
    if any((path / name).exists() for name in TABLES):
        return True
    texts = path.rglob("*.txt") if path.is_dir() else iter(())
    return any(text.with_suffix(suffix).exists() for text in texts for suffix in kind.suffixes)


def _of_table(table: Path, files: Sequence[Path], kind: Kind) -> dict[Path, str]:
    known, found = set(files), dict[Path, str]()
    for line, row in _jsonl(table) if table.suffix == ".jsonl" else _csv(table):
        where = f"{table}, line {line}"
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}, has no 'file_name': name the {kind.name} that it is about")
        file = table.parent / name
        if file not in known:
            raise DataError(
                f"{where}, is about {name}, which is no {kind.name} in this folder: add it, or remove the line"
            )
        if file in found:
            raise DataError(f"{where}, is about {name} once more: keep one line for each {kind.name}")
        caption = next((row[key] for key in CAPTIONS if row.get(key) is not None), None)
        if not isinstance(caption, str) or not caption.strip():
            raise DataError(f"{where}, has no 'text' or 'caption' for {name}: write its caption")
        found[file] = caption.strip()
    _complete(files, found, f"a line in {table.name}")
    return found


def _jsonl(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_text(table).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{table}, line {number}, is not JSON: write one object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{table}, line {number}, is not a JSON object: write one object a line")
        yield number, row


def _csv(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(StringIO(read_text(table), newline=""), strict=True)
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise DataError(f"{table}, line {rows.line_num}, is not CSV ({error}): correct the quotes") from error


def _of_text_files(path: Path, files: Sequence[Path], kind: Kind) -> dict[Path, str]:
    found = {}
    for file in files:
        sidecar = file.with_suffix(".txt")
        if sidecar.exists():
            found[file] = read_text(sidecar).strip()
            if not found[file]:
                raise DataError(f"{sidecar} is empty: write the caption of {file.name}")
    if not found:
        raise DataError(f"{path} has no captions: add metadata.jsonl, metadata.csv or a .txt file for each {kind.name}")
    _complete(files, found, "a .txt file of its name")
    return found


def _complete(files: Sequence[Path], found: dict[Path, str], how: str) -> None:
    silent = [file for file in files if file not in found]
    if silent:
        more = f" (and {len(silent) - 1} more have none)" if len(silent) > 1 else ""
        raise DataError(f"{silent[0]} has no caption{more}: give it {how}")


def read_text(path: Path) -> str:
    """A text in UTF-8. Raises DataError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: save it again as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from error
