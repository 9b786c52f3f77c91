"""Pictures in files, at the sizes they have: see ``core.data.folder`` and ``core.data.shards``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from core.data.dataset import DataError
from core.data.folder import FolderSource, open_folder
from core.data.shards import Shards, is_shards, open_shards
from core.data.source import Kind, Source, check_left_out
from core.data.survey import LeftOut, Track, plainly
from core.media.picture import SUFFIXES, decode, to_tensor
from image.source import size_of

IMAGES = Kind("image", SUFFIXES)
SHARDED = Kind("picture", frozenset({".jpg", ".jpeg", ".png", ".webp"}))


def open_source(path: Path) -> Source:
    """The pictures of a folder or of tar shards, at the sizes they have, all of which can be used.

    Raises DataError, in one sentence, where there are none, or where too many cannot be used.
    """
    found = open_files(path)
    if isinstance(found, FolderSource):
        check_left_out(found.left_out, len(found))
    return found


def open_files(path: Path, track: Track = plainly) -> FolderSource | Shards:
    """The pictures of a folder, every header of which is read, or of tar shards; a folder says what it left out."""
    if is_shards(path):
        return open_shards(path, SHARDED)
    if not path.exists():
        raise DataError(f"{path} does not exist: give a folder of pictures, .tar shards or an .npz file")
    if not path.is_dir():
        raise DataError(f"{path} is neither a folder, nor a .tar, nor an .npz file: give one of these")
    folder = open_folder(path, IMAGES)
    usable, broken = [], list[LeftOut]()
    for index in track(range(len(folder)), "reading headers"):
        try:
            size_of(folder, index)
            usable.append(index)
        except DataError as error:
            broken.append(LeftOut(folder.name(index), str(error)))
    return folder.some(usable, broken) if broken else folder


def read_picture(path: Path) -> Tensor:
    """The picture in a file, upright and in colour: (3, H, W) in [-1, 1]. Raises DataError where there is none."""
    if not path.is_file():
        raise DataError(f"{path} is no file: give a picture")
    with path.open("rb") as file:
        return to_tensor(decode(file, str(path)))
