"""Pictures of a source, of any size, and the rectangle of each that a model is trained on.

A source gives pictures undecoded, by index; a data set decodes them when they are asked for. A picture is scaled until
it just covers its target, and the rest is cropped. SDXL is conditioned on both (2307.01952, section 2.2): "size", the
height and width before, "crop" how many rows and columns were cut off above and on the left, "target" what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from core.data.dataset import Batch, DataError
from core.data.source import Source, fingerprint
from core.media import picture
from core.media.picture import CENTRE, CropPosition, Size
from core.media.sheet import picture as as_picture
from core.random import Stream, TrainingRNG

_DOWN, _ACROSS = 1, 2  # parts of Stream.AUGMENT; mirroring takes part 0


@dataclass(frozen=True)
class PictureFiles:
    """Pictures of a source at one size, with their captions or classes if any; decoded when asked for.

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

    def caption(self, index: int) -> str:
        """What a picture shows."""
        return self.source.caption(index)

    def get(self, indices: Sequence[int]) -> Batch:
        """ "x" (B, C, H, W) in [-1, 1], what is known of the pictures, "size", "crop", "target" (B, 2)."""
        return read_batch(self.source, indices, self.target, [CENTRE] * len(indices), self.channels)

    @property
    def random(self) -> bool:
        """Whether ``get_augmented`` differs from ``get``."""
        return self.random_crop

    def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> Batch:
        """The same, with random crops if they are wanted."""
        if not self.random_crop:
            return self.get(indices)
        return read_batch(self.source, indices, self.target, crop_positions(rng), self.channels)

    def fingerprint(self, index: int) -> bytes:
        """A hash of everything that ``get`` makes of a picture, without decoding it."""
        return fingerprint(self.source, index, f"{self.target} {self.channels}")


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
        decoded = decode(source, index, channels)
        cut, crop = picture.resize_and_crop(decoded, target, place)
        pixels.append(picture.to_tensor(cut))
        sizes.append((decoded.height, decoded.width))
        crops.append(crop)
    x = torch.stack(pixels)  # (B, C, H, W)
    known = source.facts.batch(indices)
    if source.captioned:
        known["caption"] = [source.caption(index) for index in indices]
    return {"x": x, **known, **micro_conditions(sizes, crops, target)}


def micro_conditions(sizes: Sequence[Size], crops: Sequence[tuple[int, int]], target: Size) -> dict[str, Any]:
    """ "size", "crop" and "target" of a batch (B, 2), as height and width."""
    rows = {"size": sizes, "crop": crops, "target": [target] * len(sizes)}
    return {name: torch.tensor(pairs, dtype=torch.float32) for name, pairs in rows.items()}


def decode(source: Source, index: int, channels: int = 3) -> Image.Image:
    """A picture of a source. Raises DataError, naming the file, where it cannot be read."""
    with source.open(index) as file:
        return picture.decode(file, source.name(index), channels)


def header_of(source: Source, index: int) -> picture.Header:
    """What the header of a picture says. Raises DataError, naming the file, where it cannot be read."""
    with source.open(index) as file:
        return picture.header_of(file, source.name(index))


def size_of(source: Source, index: int) -> Size:
    """The height and width of an upright picture, from its header alone."""
    return header_of(source, index).size


def resized(pixels: Tensor, size: Sequence[int], channels: int) -> Tensor:
    """A picture (3, H, W) in [-1, 1], scaled to cover a height and width and cropped in the middle: (1, C, H, W).

    One that has this size and these channels is left as it is; others pass through 8 bits.
    """
    if pixels.shape == (channels, *size):
        return pixels.detach().cpu().float()[None]
    cut, _ = picture.resize_and_crop(as_picture(pixels).convert(picture.MODES[channels]), (size[0], size[1]))
    return picture.to_tensor(cut)[None]
