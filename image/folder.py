"""Captioned pictures of every kind: folders, tar shards and arrays; see ``core.data``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data import captions
from core.data.dataset import Batch, DataError, Dataset
from core.data.shards import is_shards, open_shards
from core.data.source import Kind, Source, split_source
from core.media.picture import SUFFIXES, Size, decode, to_tensor
from image.data import ImageArray, open_images, split
from image.source import Captioned, size_of

IMAGES = Kind("image", SUFFIXES)
SHARDED = Kind("picture", frozenset({".jpg", ".jpeg", ".png", ".webp"}))


def image_parts(data: str, size: int) -> Callable[[], tuple[Dataset, Dataset]]:
    """A training and a held-out part of pictures of any kind, captioned or not, when called."""

    def parts() -> tuple[Dataset, Dataset]:
        path = Path(data)
        if not is_shards(path) and not captions.has_captions(path, IMAGES):
            return split(open_images(path, size))
        train, held_out = split_source(open_source(path))
        return Captioned(train, size), Captioned(held_out, size)

    return parts


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
    """The captioned pictures of a folder, every header of which is read, or of tar shards, at the sizes they have."""
    if is_shards(path):
        return open_shards(path, SHARDED)
    if not path.exists():
        raise DataError(f"{path} does not exist: give a folder of captioned images, .tar shards or an .npz file")
    if not path.is_dir():
        raise DataError(f"{path} is neither a folder, nor a .tar, nor an .npz file: give one of these")
    folder = captions.open_folder(path, IMAGES)
    for index in range(len(folder)):
        size_of(folder, index)
    return folder


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
