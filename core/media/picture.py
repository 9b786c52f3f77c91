"""The one decoder of pictures: whatever a file holds becomes 8-bit grey or RGB, upright, on white.

integers of 16 or 32 bits    their highest 8 bits
floats                       [0, 1] to 0 ... 255
palettes, CMYK, YCbCr, ...   as Pillow converts them
transparency                 over white
EXIF orientation             applied
"""

from __future__ import annotations

import struct
from typing import IO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from core.data.dataset import DataError

Size = tuple[int, int]  # height, width
CropPosition = tuple[float, float]  # where in the room there is a crop lies, down and across, each in [0, 1)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
CENTRE: CropPosition = (0.5, 0.5)
MODES = {1: "L", 3: "RGB"}

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)  # raised by decoders
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _SIGNED = 258, 339, 2  # of TIFF


def decode(file: IO[bytes], name: str, channels: int = 3) -> Image.Image:
    """The picture in an open file, of mode "L" or "RGB".

    ``name`` is what messages call it. Raises DataError where it cannot be read, or for other than 1 or 3 channels.
    """
    if channels not in MODES:
        raise DataError(f"pictures have 1 or 3 channels, not {channels}")
    try:
        with Image.open(file) as opened:
            return convert(opened, name, channels)
    except DataError:
        raise
    except _BROKEN as error:
        raise _unreadable(name) from error


def convert(picture: Image.Image, name: str = "the picture", channels: int = 3) -> Image.Image:
    """An opened picture of any mode as ``decode`` gives it. Raises DataError for floats outside of [0, 1]."""
    try:
        found = _eight_bits(ImageOps.exif_transpose(picture), _bits(picture))
    except OverflowError as error:
        raise DataError(f"{name} holds {error}: scale it and save it again") from error
    if found.has_transparency_data:
        found = found.convert("RGBA")
        found = Image.alpha_composite(Image.new("RGBA", found.size, "white"), found)
    return found.convert(MODES[channels])


class Header(NamedTuple):
    """What a picture is before it is decoded."""

    size: Size  # upright
    channels: int  # 1 or 3
    transparent: bool


def header_of(file: IO[bytes], name: str) -> Header:
    """What the header of a picture says. Raises DataError where there is none."""
    try:
        with Image.open(file) as picture:
            # Asked of the base class, because a PNG would decode itself in search of more.
            turned = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            size = (picture.width, picture.height) if turned else (picture.height, picture.width)
            grey = picture.mode.startswith(("1", "L", "I", "F"))
            return Header(size, 1 if grey else 3, picture.has_transparency_data)
    except _BROKEN as error:
        raise _unreadable(name) from error


def size_of(file: IO[bytes], name: str) -> Size:
    """The height and width of an upright picture, from its header alone. Raises DataError where there is none."""
    return header_of(file, name).size


def resize_and_crop(
    picture: Image.Image, target: Size, place: CropPosition = CENTRE
) -> tuple[Image.Image, tuple[int, int]]:
    """A picture scaled to cover ``target`` (height, width) and cropped there, and the crop's (top, left)."""
    height, width = target
    scale = max(height / picture.height, width / picture.width)
    covering = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    scaled = picture if picture.size == covering else picture.resize(covering, Image.Resampling.LANCZOS)
    top = int(place[0] * (scaled.height - height + 1))
    left = int(place[1] * (scaled.width - width + 1))
    return scaled.crop((left, top, left + width, top + height)), (top, left)


def to_tensor(picture: Image.Image) -> Tensor:
    """A picture of mode "L" or "RGB" -> (C, H, W) in [-1, 1]."""
    return to_bytes(picture).contiguous() / 127.5 - 1


def to_bytes(picture: Image.Image) -> Tensor:
    """A picture of mode "L" or "RGB" -> (C, H, W) bytes."""
    pixels = np.array(picture).reshape(picture.height, picture.width, -1)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _eight_bits(picture: Image.Image, bits: int) -> Image.Image:
    """A picture whose numbers have more than 8 bits, which Pillow would cut off at 255, with 8; others as they are.

    Raises OverflowError for floats outside of [0, 1].
    """
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture)
    found = Image.fromarray(_floats(values) if np.issubdtype(values.dtype, np.floating) else _integers(values, bits))
    clear = picture.info.get("transparency")  # the one grey that is transparent
    if isinstance(clear, int):
        found.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return found


def _floats(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise OverflowError("floats outside of [0, 1]")
    return np.round(values * 255).astype(np.uint8)


def _integers(values: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    # Pillow has no unsigned 32 bits: the upper half of their range comes as negative numbers.
    wide = values.astype(np.int64) % 2**32 if bits == 32 else np.maximum(values.astype(np.int64), 0)
    return (wide >> (bits - 8)).astype(np.uint8)


def _bits(picture: Image.Image) -> int:
    """How many bits the numbers of a picture have, from its header, without that of the sign."""
    tags = getattr(picture, "tag_v2", None)  # only TIFF has other than 8 or 16
    if tags is None:
        return 16
    signed = tags.get(_SAMPLE_FORMAT, (0,))[0] == _SIGNED
    return int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - signed


def _unreadable(name: str) -> DataError:
    return DataError(f"{name} cannot be read as an image: remove it or replace it")
