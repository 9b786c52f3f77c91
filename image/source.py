"""Captioned pictures of any size, and the square (or rectangle) of each that a model is trained on.

A source gives pictures undecoded, by index; a data set decodes them when they are asked for. A picture is scaled until
it just covers its target, and the rest is cropped. SDXL is conditioned on both (2307.01952, section 2.2): "size", the
height and width before, "crop" how many rows and columns were cut off above and on the left, "target" what is left.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from typing import Protocol

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from core.data.dataset import Batch
from core.random import Stream, TrainingRNG
from image.data import DataError

Size = tuple[int, int]  # height, width
CropPosition = tuple[float, float]  # where in the room there is a crop lies, down and across, each in [0, 1)

CENTRE: CropPosition = (0.5, 0.5)
_DOWN, _ACROSS = 1, 2  # parts of Stream.AUGMENT; mirroring takes part 0
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)  # raised by decoders


class Source(Protocol):
    """Captioned pictures by index, still encoded."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages call a picture."""

    def open(self, index: int) -> BufferedReader:
        """The file of a picture, to be closed by the caller."""

    def caption(self, index: int) -> str:
        """What it shows. Raises DataError where there is none, or it cannot be read."""


@dataclass(frozen=True)
class Part:
    """Some pictures of a source."""

    source: Source
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """What messages call a picture."""
        return self.source.name(self.indices[index])

    def open(self, index: int) -> BufferedReader:
        """The file of a picture."""
        return self.source.open(self.indices[index])

    def caption(self, index: int) -> str:
        """What it shows."""
        return self.source.caption(self.indices[index])


def split_source(source: Source, held_out: float = 0.1) -> tuple[Part, Part]:
    """A training part and a held-out part, by a fixed shuffle; both have at least one picture."""
    if len(source) < 2:
        raise DataError("one picture cannot be split into a training and a held-out part: give at least two")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0)).tolist()
    kept = max(1, min(len(source) - 1, round(len(source) * held_out)))
    return Part(source, tuple(order[kept:])), Part(source, tuple(order[:kept]))


@dataclass(frozen=True)
class Captioned:
    """Pictures of a source at one size, with their captions; decoded when asked for.

    ``random_crop`` draws a new crop each time a picture is used in training, as a function of its position in the
    run; ``get`` alone always crops the middle.
    """

    source: Source
    size: int | Size
    channels: int = 3
    random_crop: bool = False

    def __post_init__(self) -> None:
        if min(self.target) < 1 or self.channels not in (1, 3):
            raise DataError(
                f"{self.target} with {self.channels} channels is no picture: give a size, and 1 or 3 channels"
            )

    def __len__(self) -> int:
        return len(self.source)

    @property
    def target(self) -> Size:
        """Height and width of every picture."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every picture."""
        return (self.channels, *self.target)

    def get(self, indices: Sequence[int]) -> Batch:
        """ "x" (B, C, H, W) in [-1, 1], "caption" a list, and "size", "crop", "target" (B, 2) as height, width."""
        return read_batch(self.source, indices, self.target, [CENTRE] * len(indices), self.channels)

    def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> Batch:
        """The same, with random crops if they are wanted."""
        if not self.random_crop:
            return self.get(indices)
        return read_batch(self.source, indices, self.target, crop_positions(rng), self.channels)

    def fingerprint(self, index: int) -> bytes:
        """A hash of everything that ``get`` makes of a picture, without decoding it."""
        return fingerprint(self.source, index, self.target, self.channels)


def crop_positions(rng: TrainingRNG) -> list[CropPosition]:
    """A random place for the crop of each row of a batch."""
    down, across = rng.uniform(Stream.AUGMENT, _DOWN), rng.uniform(Stream.AUGMENT, _ACROSS)
    return list(zip(down.tolist(), across.tolist()))


def read_batch(
    source: Source, indices: Sequence[int], target: Size, where: Sequence[CropPosition], channels: int = 3
) -> Batch:
    """The batch of some pictures, each scaled to cover ``target`` and cropped at its place."""
    pixels, sizes, crops = [], [], []
    for index, place in zip(indices, where, strict=True):
        picture = decode(source, index, channels)
        cut, crop = resize_and_crop(picture, target, place)
        pixels.append(torch.from_numpy(np.array(cut, dtype=np.float32).reshape(*target, channels)))
        sizes.append((picture.height, picture.width))
        crops.append(crop)
    x = torch.stack(pixels).permute(0, 3, 1, 2).contiguous() / 127.5 - 1  # (B, C, H, W)
    captions = [source.caption(index) for index in indices]
    return {"x": x, "caption": captions, "size": _rows(sizes), "crop": _rows(crops), "target": _rows([target] * len(x))}


def _rows(pairs: Sequence[tuple[int, int]]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.float32)  # (B, 2)


def resize_and_crop(
    picture: Image.Image, target: Size, place: CropPosition = CENTRE
) -> tuple[Image.Image, tuple[int, int]]:
    """A picture scaled to cover ``target`` (height, width) and cropped there, and the crop's (top, left)."""
    height, width = target
    scale = max(height / picture.height, width / picture.width)
    covering = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    scaled = picture.resize(covering, Image.Resampling.LANCZOS)
    top = int(place[0] * (scaled.height - height + 1))
    left = int(place[1] * (scaled.width - width + 1))
    return scaled.crop((left, top, left + width, top + height)), (top, left)


def decode(source: Source, index: int, channels: int = 3) -> Image.Image:
    """A picture, upright, what is transparent white. Raises DataError, naming the file, where it cannot be read."""
    try:
        with source.open(index) as file, Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I;16"):
                # Pillow would cut 16-bit greys off at 255 instead of scaling them.
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return picture.convert("L" if channels == 1 else "RGB")
    except _BROKEN as error:
        raise _unreadable(source, index) from error


def size_of(source: Source, index: int) -> Size:
    """The height and width of a picture after its EXIF rotation, from its header alone."""
    try:
        with source.open(index) as file, Image.open(file) as picture:
            # Asked of the base class, because a PNG would decode itself in search of more.
            turned = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (picture.width, picture.height) if turned else (picture.height, picture.width)
    except _BROKEN as error:
        raise _unreadable(source, index) from error


def _unreadable(source: Source, index: int) -> DataError:
    return DataError(f"{source.name(index)} cannot be read as an image: remove it or replace it")


def fingerprint(source: Source, index: int, target: Size, channels: int) -> bytes:
    """SHA-256 of a picture's file, its caption and the size it is brought to."""
    with source.open(index) as file:
        content = hashlib.file_digest(file, "sha256").digest()
    words = f"{target} {channels} {source.caption(index)}".encode()
    return hashlib.sha256(content + words).digest()


def resized(pixels: Tensor, size: Sequence[int], channels: int) -> Tensor:
    """A picture (3, H, W) in [-1, 1], scaled to cover a height and width and cropped in the middle: (1, C, H, W).

    One that has this size and these channels is left as it is; others pass through 8 bits.
    """
    if pixels.shape == (channels, *size):
        return pixels.detach().cpu().float()[None]
    shown = ((pixels.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    shown = shown if len(shown) == 3 else shown[:1].expand(3, -1, -1)
    whole = Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy()).convert("L" if channels == 1 else "RGB")
    cut, _ = resize_and_crop(whole, (size[0], size[1]))
    values = torch.from_numpy(np.array(cut, dtype=np.float32)).view(1, size[0], size[1], -1)
    return values.permute(0, 3, 1, 2).contiguous() / 127.5 - 1
