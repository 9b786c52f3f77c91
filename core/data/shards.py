"""Tar shards of captioned files (the WebDataset layout), by index.

Members that share a name up to its first dot are one example: ``000123.jpg`` and ``000123.txt`` (the caption), or
``000123.json`` with "caption" or "text", ``000123.cls`` (its class), or neither. Only the headers and classes are read
when shards are opened; each member is then found by its offset, so that examples come in any order and a run resumes
exactly, as with any other data set.
"""

from __future__ import annotations

import glob
import io
import itertools
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

from core.data.captions import classes_of
from core.data.dataset import DataError
from core.data.source import Facts, Kind

BLOCK = 512  # bytes: tar is made of these, and ends with blocks of zeros


class Member(NamedTuple):
    """Where the bytes of a member lie in its shard, and what it is."""

    offset: int
    size: int
    kind: str  # what follows the first dot of its name, in small letters


class Example(NamedTuple):
    """A file and its caption in a shard."""

    shard: int
    key: str
    content: Member
    caption: Member | None
    label: Member | None


@dataclass(frozen=True)
class Shards:
    """The captioned files of some tar files."""

    paths: tuple[Path, ...]
    examples: tuple[Example, ...]

    @cached_property
    def facts(self) -> Facts:
        """The classes, where every example has one; captions are read when they are asked for."""
        words = [self._text(example, example.label)[1] for example in self.examples if example.label is not None]
        if len(words) < len(self.examples):
            return Facts()
        labels, classes = classes_of(words)
        return Facts(labels=labels, classes=classes)

    @property
    def captioned(self) -> bool:
        """Whether each has a caption."""
        return self.examples[0].caption is not None

    def __len__(self) -> int:
        return len(self.examples)

    def name(self, index: int) -> str:
        """The member that is the file, and its shard."""
        example = self.examples[index]
        return f"{example.key}.{example.content.kind} in {self.paths[example.shard]}"

    def open(self, index: int) -> io.BufferedReader:
        """The open file."""
        example = self.examples[index]
        return io.BufferedReader(Window(self.paths[example.shard], example.content))

    def caption(self, index: int) -> str:
        """What it shows. Raises DataError where it is empty or not text."""
        example = self.examples[index]
        if example.caption is None:
            raise DataError(f"{self.name(index)} has no caption: put {example.key}.txt right after it")
        name, content = self._text(example, example.caption)
        try:
            text = CAPTIONS[example.caption.kind](content)
        except (json.JSONDecodeError, AttributeError, RecursionError) as error:
            raise DataError(f"{name} is not a JSON object: write the shard again") from error
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{name} holds no caption: write one there")
        return text.strip()

    def _text(self, example: Example, member: Member) -> tuple[str, str]:
        """What messages call a member, and the text in it."""
        name = f"{example.key}.{member.kind} in {self.paths[example.shard]}"
        with Window(self.paths[example.shard], member) as file:
            content = file.readall()
        try:
            return name, content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{name} is not UTF-8 text: write the shard again") from error


def _of_json(text: str) -> object:
    """The caption in a JSON object, "" for none."""
    row = json.loads(text)
    return next((row[key] for key in ("caption", "text") if row.get(key)), "")


# The kinds of members that hold captions, the first that is there counts, and how each is read.
CAPTIONS: dict[str, Callable[[str], object]] = {"txt": str, "json": _of_json}


class Window(io.RawIOBase):
    """The bytes of one member of a tar file, as a file."""

    def __init__(self, path: Path, member: Member) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._member = member
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._member.size}[whence])
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        length = max(0, min(len(view), self._member.size - self._at))
        self._file.seek(self._member.offset + self._at)
        read = self._file.readinto(view[:length])
        self._at += read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()


def is_shards(path: Path) -> bool:
    """Whether a path means tar shards: a .tar file, a pattern of them, or a folder that holds nothing else."""
    if path.is_dir():
        inside = [file for file in path.iterdir() if not file.name.startswith(".")]
        return bool(inside) and all(file.suffix == ".tar" for file in inside)
    return ".tar" in path.suffixes or path.suffix == ".tgz"


def open_shards(pattern: Path, kind: Kind) -> Shards:
    """The captioned files of every shard that a pattern means, in the order of the shards' names."""
    paths = [path for name in braces(str(pattern)) for path in _matching(Path(name))]
    if not paths:
        raise DataError(f"no file matches {pattern}: give a .tar file, a folder of them, or a pattern")
    examples = [example for number, path in enumerate(paths) for example in _examples(number, path, kind)]
    if not examples:
        raise DataError(f"{paths[0]} holds no captioned {kind.name}s: put {_first(kind)} and NAME.txt into it")
    silent = [example for example in examples if example.caption is None]
    if silent and len(silent) < len(examples):
        key, shard = silent[0].key, paths[silent[0].shard]
        raise DataError(f"{key}.{silent[0].content.kind} in {shard} has no caption: put {key}.txt right after it")
    return Shards(tuple(paths), tuple(examples))


def braces(pattern: str) -> Iterator[str]:
    """What a shell makes of braces: ``{a,b}`` and ``{000..011}``, any number of them."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        yield pattern
        return
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if numbers:
        choices = [str(n).zfill(len(numbers[1])) for n in range(int(numbers[1]), int(numbers[2]) + 1)]
    else:
        choices = found[1].split(",")
    for choice in choices:
        yield from braces(pattern[: found.start()] + choice + pattern[found.end() :])


def _matching(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if glob.has_magic(str(path)):
        return [Path(name) for name in sorted(glob.glob(str(path)))]
    if not path.exists():
        raise DataError(f"{path} does not exist: correct the name, or the range of the pattern")
    return [path]


def _first(kind: Kind) -> str:
    return f"NAME{min(kind.suffixes)}"


def _examples(number: int, path: Path, kind: Kind) -> Iterator[Example]:
    """The examples of one shard; members that belong together follow each other."""
    for key, group in itertools.groupby(_members(path), lambda pair: pair[0]):
        kinds: dict[str, Member] = {}
        for _, member in group:
            if member.kind in kinds:
                raise DataError(f"{path} holds {key}.{member.kind} twice: write the shard again")
            kinds[member.kind] = member
        found = [name for name in kinds if f".{name}" in kind.suffixes]
        captions = [name for name in CAPTIONS if name in kinds]
        if len(found) != 1:
            raise DataError(f"{path} holds {len(found)} {kind.name}s for '{key}': put exactly one there")
        caption = kinds[captions[0]] if captions else None
        yield Example(number, key, kinds[found[0]], caption, kinds.get("cls"))


def _members(path: Path) -> Iterator[tuple[str, Member]]:
    """The key and the place of every file in a tar, from its headers. Raises DataError where it is cut or no tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                folder, _, name = info.name.removeprefix("./").rpartition("/")
                stem, _, kind = name.partition(".")
                if info.isreg() and stem:
                    yield f"{folder}/{stem}" if folder else stem, Member(info.offset_data, info.size, kind.lower())
            end = tar.offset
        with path.open("rb") as file:
            file.seek(end)
            whole = file.read(BLOCK) == bytes(BLOCK)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} is compressed, cut short or no tar file: get it again, uncompressed") from error
    if not whole:
        # tarfile takes a file that stops between two members, or before a damaged header, for a complete one.
        raise DataError(f"{path} is cut short or damaged after {end} bytes: get it again")
