"""Pictures in files, at the sizes they have: see ``core.data.folder`` and ``core.data.shards``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from core.data.dataset import DataError
from core.data.folder import FolderSource, files_below, open_folder
from core.data.parquet import open_parquet, parquet_files
from core.data.shards import is_shards, open_shards
from core.data.source import Kind, Part, Source, check_left_out
from core.data.survey import LeftOut, Track, plainly, report
from core.media.picture import SUFFIXES, Header, decode, to_tensor
from image.arrays import has_images
from image.source import header_of

IMAGES = Kind("image", SUFFIXES)
SHARDED = Kind("picture", frozenset({".jpg", ".jpeg", ".png", ".webp"}))


class Opened(NamedTuple):
    """A source, and what of its folder or file cannot be used."""

    source: Source
    left_out: tuple[LeftOut, ...] = ()
    headers: tuple[Header, ...] = ()  # of each picture, where they were read
    kind: str = "pictures"
    notes: tuple[str, ...] = ()


def open_source(path: Path) -> Source:
    """The pictures of a folder or of tar shards, at the sizes they have, all of which have a header.

    Raises DataError, in one sentence, where there are none, or where too many cannot be used.
    """
    found = open_files(path)
    check_left_out(found.left_out, len(found.source))
    report(path, found.left_out, len(found.source))
    return found.source


def open_files(path: Path, track: Track = plainly) -> Opened:
    """The pictures of a folder that have a header, all of which are read, or of tar shards, and what was left out."""
    listed = list_files(path)
    if not isinstance(listed.source, FolderSource):
        return listed
    headers, kept, broken = read_headers(listed.source, track)
    source = Part(listed.source, kept) if broken else listed.source
    return listed._replace(source=source, left_out=(*listed.left_out, *broken), headers=headers)


def list_files(path: Path) -> Opened:
    """The pictures of a folder or of tar shards by their names alone."""
    if tables := parquet_files(path, IMAGES):
        rows = open_parquet(tables, IMAGES)
        return Opened(rows, rows.left_out, kind=f"pictures in {len(tables)} parquet tables")
    if is_shards(path):
        shards = open_shards(path, SHARDED)
        return Opened(shards, kind=f"pictures in {len(shards.paths)} tar shards")
    if not path.exists():
        raise DataError(f"{path} does not exist: give a folder of pictures, .tar shards, .parquet or an .npz file")
    if not path.is_dir():
        raise DataError(f"{path} is neither a folder, nor a .tar, .parquet or .npz file: give one of these")
    folder = open_folder(path, IMAGES)
    return Opened(folder, folder.left_out, (), f"pictures {folder.layout}", folder.notes)


def read_headers(source: Source, track: Track) -> tuple[tuple[Header, ...], tuple[int, ...], tuple[LeftOut, ...]]:
    """The headers of the pictures that have one, which these are, and what is wrong with the others."""
    headers: list[Header] = []
    kept: list[int] = []
    broken: list[LeftOut] = []
    for index in track(range(len(source)), "reading headers"):
        try:
            headers.append(header_of(source, index))
            kept.append(index)
        except DataError as error:
            broken.append(LeftOut(source.name(index), str(error)))
    return tuple(headers), tuple(kept), tuple(broken)


def count_pictures(path: Path) -> int:
    """How many pictures the names of a folder, of shards or of the arrays of an .npz file promise."""
    if path.is_dir() and not is_shards(path):
        found = len(files_below(path, SUFFIXES))
        return found or int(arrays_at(path) is not None) or len(parquet_files(path, IMAGES))
    return int(is_shards(path) or bool(parquet_files(path, IMAGES)) or (path.is_file() and has_images(path)))


def arrays_at(path: Path) -> Path | None:
    """The .npz file at a path: the path itself, or the only one in a folder of no pictures; None for anything else."""
    if path.suffix.casefold() == ".npz" and path.is_file():
        return path
    files = [file for file in path.iterdir() if not file.name.startswith(".")] if path.is_dir() else []
    arrays = [file for file in files if file.suffix.casefold() == ".npz" and file.is_file()]
    others = any(file.is_dir() or file.suffix.lower() in SUFFIXES for file in files)
    return arrays[0] if len(arrays) == 1 and not others and has_images(arrays[0]) else None


def evenly(count: int, most: int) -> Sequence[int]:
    """At most so many of ``count`` indices, from all over them."""
    return sorted({row * count // most for row in range(most)}) if count > most else range(count)


def read_picture(path: Path) -> Tensor:
    """The picture in a file, upright and in colour: (3, H, W) in [-1, 1]. Raises DataError where there is none."""
    if not path.is_file():
        raise DataError(f"{path} is no file: give a picture")
    with path.open("rb") as file:
        return to_tensor(decode(file, str(path)))
