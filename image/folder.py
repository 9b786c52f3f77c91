"""Folders of captioned images, and the entry point for captioned data of every kind.

A folder's captions are in one of three places, of which it has exactly one:

    metadata.jsonl   one {"file_name": "a.png", "text": "a red 7"} a line; "caption" will do for "text"
    metadata.csv     a header with the same names, one image a row
    a.txt            next to a.png
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.dataset import Batch, DataError, Dataset
from core.media.picture import SUFFIXES, Size, decode, to_tensor
from image.data import ImageArray, open_images, split
from image.shards import is_shards, open_shards
from image.source import Captioned, Source, size_of, split_source

CAPTIONS = ("text", "caption")  # what a caption is called in metadata; the first that is there
TABLES = ("metadata.jsonl", "metadata.csv")


def image_parts(data: str, size: int) -> Callable[[], tuple[Dataset, Dataset]]:
    """A training and a held-out part of pictures of any kind, captioned or not, when called."""

    def parts() -> tuple[Dataset, Dataset]:
        path = Path(data)
        if not is_shards(path) and not has_captions(path):
            return split(open_images(path, size))
        train, held_out = split_source(open_source(path))
        return Captioned(train, size), Captioned(held_out, size)

    return parts


def has_captions(path: Path) -> bool:
    """Whether a folder holds a table of captions, or a picture with a text file of the same name."""
    if any((path / name).exists() for name in TABLES):
        return True
    texts = path.rglob("*.txt") if path.is_dir() else iter(())
    return any(text.with_suffix(suffix).exists() for text in texts for suffix in SUFFIXES)


@dataclass(frozen=True)
class CaptionedFolder:
    """Image files and what they show."""

    paths: tuple[Path, ...]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path of a picture."""
        return str(self.paths[index])

    def open(self, index: int) -> BufferedReader:
        """The file of a picture."""
        return self.paths[index].open("rb")

    def caption(self, index: int) -> str:
        """What it shows."""
        return self.captions[index]


@dataclass(frozen=True)
class CaptionedArray:
    """Captioned images in memory, all of one size; ``size`` is what they had before they were scaled and cropped."""

    images: Tensor  # (N, C, H, W) in [-1, 1]
    captions: tuple[str, ...]
    size: Size
    crop: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return tuple(self.images.shape[1:])

    def get(self, indices: Sequence[int]) -> Batch:
        """What ``Captioned.get`` gives."""
        micro_conditions = {"size": self.size, "crop": self.crop, "target": self.images.shape[-2:]}
        rows = {
            name: torch.tensor([list(pair)] * len(indices), dtype=torch.float32)
            for name, pair in micro_conditions.items()
        }
        return {"x": self.images[list(indices)], "caption": [self.captions[index] for index in indices], **rows}


def open_captioned(
    path: Path, size: int | Size, channels: int = 3, random_crop: bool = False
) -> Captioned | CaptionedArray:
    """Captioned images at one size: of a folder, of tar shards, or of an .npz file with "images" and "captions".

    Shards are a .tar file, a folder of them, or a pattern such as ``shards/{000..011}.tar`` or ``shards/*.tar``. Raises
    DataError, in one sentence, for whatever cannot be used.
    """
    if path.suffix != ".npz":
        return Captioned(open_source(path), size, channels, random_crop)
    if random_crop:
        raise DataError("arrays are cropped in the middle: give a folder or shards to crop at random")
    return _open_arrays(path, (size, size) if isinstance(size, int) else size, channels)


def open_source(path: Path) -> Source:
    """The captioned pictures of a folder or of tar shards, at the sizes they have."""
    if is_shards(path):
        return open_shards(path)
    if not path.exists():
        raise DataError(f"{path} does not exist: give a folder of captioned images, .tar shards or an .npz file")
    if not path.is_dir():
        raise DataError(f"{path} is neither a folder, nor a .tar, nor an .npz file: give one of these")
    return open_folder(path)


def open_folder(path: Path) -> CaptionedFolder:
    """The images of a folder and of the folders in it, each with its caption; every header is read."""
    images = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not images:
        raise DataError(f"{path} holds no images: put {', '.join(sorted(SUFFIXES))} files and their captions into it")
    tables = [path / name for name in TABLES if (path / name).exists()]
    if len(tables) > 1:
        raise DataError(f"{path} has both {' and '.join(TABLES)}: keep the one that is right")
    found = _of_table(tables[0], images) if tables else _of_text_files(path, images)
    folder = CaptionedFolder(tuple(images), tuple(found[image] for image in images))
    for index in range(len(folder)):
        size_of(folder, index)
    return folder


def _of_table(table: Path, images: Sequence[Path]) -> dict[Path, str]:
    known, found = set(images), dict[Path, str]()
    for line, row in _jsonl(table) if table.suffix == ".jsonl" else _csv(table):
        where = f"{table}, line {line}"
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}, has no 'file_name': name the image that it is about")
        image = table.parent / name
        if image not in known:
            raise DataError(f"{where}, is about {name}, which is no image in this folder: add it, or remove the line")
        if image in found:
            raise DataError(f"{where}, is about {name} once more: keep one line for each image")
        caption = next((row[key] for key in CAPTIONS if row.get(key) is not None), None)
        if not isinstance(caption, str) or not caption.strip():
            raise DataError(f"{where}, has no 'text' or 'caption' for {name}: write its caption")
        found[image] = caption.strip()
    _complete(images, found, f"a line in {table.name}")
    return found


def _jsonl(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text(table).split("\n"), start=1):
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
    rows = csv.DictReader(StringIO(_text(table), newline=""), strict=True)
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise DataError(f"{table}, line {rows.line_num}, is not CSV ({error}): correct the quotes") from error


def _of_text_files(path: Path, images: Sequence[Path]) -> dict[Path, str]:
    found = {}
    for image in images:
        sidecar = image.with_suffix(".txt")
        if sidecar.exists():
            found[image] = _text(sidecar).strip()
            if not found[image]:
                raise DataError(f"{sidecar} is empty: write the caption of {image.name}")
    if not found:
        raise DataError(f"{path} has no captions: add metadata.jsonl, metadata.csv or a .txt file for each image")
    _complete(images, found, "a .txt file of its name")
    return found


def _complete(images: Sequence[Path], found: dict[Path, str], how: str) -> None:
    silent = [image for image in images if image not in found]
    if silent:
        more = f" (and {len(silent) - 1} more have none)" if len(silent) > 1 else ""
        raise DataError(f"{silent[0]} has no caption{more}: give it {how}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: save it again as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from error


def _open_arrays(path: Path, target: Size, channels: int) -> CaptionedArray:
    data = open_images(path)
    if not isinstance(data, ImageArray) or data.shape[0] != channels:
        raise DataError(f"the images in {path} have {data.shape[0]} channels, not {channels}: convert them")
    with np.load(path, allow_pickle=False) as file:
        captions = file["captions"] if "captions" in file.files else None
    if captions is None:
        raise DataError(f"{path} has no array named 'captions': store one text for each image there")
    if captions.shape != (len(data),) or captions.dtype.kind != "U":
        raise DataError(f"the captions in {path} must be one text for each of the {len(data)} images")
    empty = np.flatnonzero(np.char.str_len(np.char.strip(captions)) == 0)
    if len(empty):
        raise DataError(f"caption {empty[0]} in {path} is empty: write one")
    size = (data.shape[1], data.shape[2])
    images, crop = _cover(data.images, target)
    return CaptionedArray(images, tuple(str(caption).strip() for caption in captions), size, crop)


def _cover(images: Tensor, target: Size) -> tuple[Tensor, tuple[int, int]]:
    """Images (N, C, H, W) scaled to cover the target and cropped in the middle, and the crop's (top, left)."""
    height, width = images.shape[-2:]
    scale = max(target[0] / height, target[1] / width)
    covering = (max(target[0], round(height * scale)), max(target[1], round(width * scale)))
    if covering != (height, width):
        images = F.interpolate(images, covering, mode="bicubic", antialias=True).clamp(-1, 1)
    top, left = (covering[0] - target[0]) // 2, (covering[1] - target[1]) // 2
    return images[..., top : top + target[0], left : left + target[1]].contiguous(), (top, left)


def read_picture(path: Path) -> Tensor:
    """The picture in a file, upright and in colour: (3, H, W) in [-1, 1]. Raises DataError where there is none."""
    if not path.is_file():
        raise DataError(f"{path} is no file: give a picture")
    with path.open("rb") as file:
        return to_tensor(decode(file, str(path)))
