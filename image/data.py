"""Pictures as data sets: everything that a person has, opened in one place, and scikit-learn's real digits.

A data set answers ``len(data)`` and ``data.get(indices) -> {"x": (B, C, H, W) in [-1, 1], ...}`` with "label" (B,)
where there are classes, "caption" where there are captions, and "size", "crop" and "target" of pictures in files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.data.dataset import DataError
from core.data.source import Facts, Part, check_left_out, divided, divided_by
from core.data.survey import LeftOut, Track, plainly, report
from core.media.picture import CENTRE, Size, resize_and_crop, to_bytes
from image.arrays import Frame, ImageArray, cover, in_channels, open_arrays
from image.folder import arrays_at, list_files, open_files
from image.source import PictureFiles, decode

MEMORY = 2**29  # bytes of decoded pictures that are kept in memory; more are decoded when they are asked for


@dataclass(frozen=True)
class Subset:
    """Some of a data set's images."""

    data: ImageArray
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return self.data.shape

    @property
    def labels(self) -> Tensor | None:
        """The classes of these images, if any."""
        return None if self.data.labels is None else self.data.labels[list(self.indices)]

    def caption(self, index: int) -> str:
        """What an image shows."""
        return self.data.caption(self.indices[index])

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        """The images, and what is known of them, at some indices."""
        return self.data.get([self.indices[index] for index in indices])


Images = ImageArray | Subset | PictureFiles


@dataclass(frozen=True)
class Parts:
    """Pictures to train on, and pictures held out: a given test split, or else a tenth, by whole groups."""

    train: Images
    held_out: Images
    classes: tuple[str, ...] = ()  # names, by label
    captioned: bool = False
    left_out: tuple[LeftOut, ...] = ()


def open_parts(path: Path, size: Size | int, channels: int = 3, track: Track = plainly) -> Parts:
    """The pictures of a folder, of tar shards or of an .npz file, scaled to cover ``size`` and cropped in the middle.

    size: height and width, or the side of a square. What fits into memory is decoded here, once. Raises DataError, in
    one sentence, for whatever cannot be used; a few files that are broken are left out.
    """
    target = size if isinstance(size, tuple) else (size, size)
    if min(target) < 1 or channels < 1:
        raise DataError(f"{target} with {channels} channels is no picture: give a size, and 1 or 3 channels")
    if (file := arrays_at(path)) is not None:
        images, facts = open_arrays(file)
        frame_size, count = tuple(images.shape[-2:]), len(images)
        images, crop = cover(in_channels(images, channels, path), target)
        rows = (torch.tensor([pair], dtype=torch.float32).expand(count, 2) for pair in (frame_size, crop))
        return _divided(ImageArray(images, frame=Frame(*rows)), facts, ())
    source, left_out, *_ = list_files(path)
    check_left_out(left_out, len(source))
    if len(source) * channels * target[0] * target[1] <= MEMORY:
        array, kept, broken = _decoded(PictureFiles(source, target, channels), track)
        left_out = (*left_out, *broken)
        check_left_out(left_out, len(kept))
        report(path, left_out, len(kept))
        facts = source.facts.some(kept)
        if source.captioned and facts.captions is None:
            facts = Facts([source.caption(index) for index in kept], facts.labels, facts.classes)
        return _divided(array, facts, left_out)
    source, left_out, *_ = open_files(path, track)
    check_left_out(left_out, len(source))
    report(path, left_out, len(source))
    sides = divided_by(source.facts, len(source))
    train, held_out = (PictureFiles(Part(source, indices), target, channels) for indices in sides)
    return Parts(train, held_out, source.facts.classes, source.captioned, left_out)


def _decoded(files: PictureFiles, track: Track) -> tuple[ImageArray, list[int], list[LeftOut]]:
    """The pictures that can be decoded, in memory as bytes; which these are; and what is wrong with the others."""
    count = len(files)
    images = torch.empty(count, *files.shape, dtype=torch.uint8)
    sizes: list[Size] = []
    crops: list[tuple[int, int]] = []
    kept: list[int] = []
    broken: list[LeftOut] = []
    for index in track(range(count), "decoding pictures"):
        try:
            picture = decode(files.source, index, files.channels)
        except DataError as error:
            broken.append(LeftOut(files.source.name(index), str(error)))
            continue
        cut, crop = resize_and_crop(picture, files.target, CENTRE)
        images[len(kept)] = to_bytes(cut)
        sizes.append((picture.height, picture.width))
        crops.append(crop)
        kept.append(index)
    frame = Frame(*(torch.tensor(rows, dtype=torch.float32).view(-1, 2) for rows in (sizes, crops)))
    return ImageArray(images[: len(kept)], frame=frame), kept, broken


def _divided(data: ImageArray, facts: Facts, left_out: Sequence[LeftOut]) -> Parts:
    data = data.with_facts(facts)
    rows = divided_by(facts, len(data), same=same_images(data.images))
    train, held_out = (Subset(data, indices) for indices in rows)
    return Parts(train, held_out, facts.classes, facts.captions is not None, tuple(left_out))


def same_images(images: Tensor) -> list[list[int]]:
    """Sets of images (N, C, H, W) that are the same in every number."""
    found: dict[bytes, list[int]] = {}
    for index, image in enumerate(images.numpy()):
        found.setdefault(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), []).append(index)
    return [rows for rows in found.values() if len(rows) > 1]


def digits() -> tuple[ImageArray, ImageArray]:
    """Scikit-learn's 1,797 real handwritten digits at 8x8: 1,297 to train on and 500 held out, in a fixed shuffle."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1  # (1797, 1, 8, 8)
    labels = torch.tensor(found.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return ImageArray(images[:1297], labels[:1297]), ImageArray(images[1297:], labels[1297:])


def split(data: ImageArray, held_out: float = 0.1) -> tuple[Subset, Subset]:
    """A training part and a held-out part, by a fixed shuffle; both have at least one image."""
    kept, out = divided(len(data), held_out)
    return Subset(data, kept), Subset(data, out)
