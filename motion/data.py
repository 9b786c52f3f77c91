"""Captioned motions from folders of features: HumanML3D and KIT as published.

    new_joint_vecs/<name>.npy, texts/<name>.txt, Mean.npy, Std.npy, train.txt, val.txt, test.txt

A line of a text is ``caption#words#from#to``; where the times are not 0 it is of that part only. Clips are padded to
one length; of a longer one, training draws a crop each time. Recordings of your own: ``motion.windows``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from core.data.captions import read_text
from core.data.dataset import DataError
from core.random import Stream, TrainingRNG
from motion.features import Normal
from motion.mirror import mirror, mirror_words
from motion.skeleton import HUMAN, Skeleton

LONGEST = 196  # rows of features
UNIT = 4  # lengths are multiples of this


@dataclass(frozen=True)
class Piece:
    """Rows of a file of features, their captions, their class and that of their mirror image; -1 is none."""

    path: Path
    start: int
    stop: int
    captions: tuple[str, ...]
    label: int = -1
    mirrored_label: int = -1


@dataclass(frozen=True)
class MotionFiles:
    """Pieces as a data set: "x" (B, length, D) normalised, 0 after the end; "valid" (B, length); "caption"; "label".

    ``get`` takes the first caption and the beginning; training draws a caption, which part of a longer piece, and with
    ``mirrored`` whether it is the mirror image. Labels are there where every piece has a class.
    """

    pieces: tuple[Piece, ...]
    normal: Normal
    skeleton: Skeleton = HUMAN
    length: int = LONGEST
    mirrored: bool = False
    random: ClassVar[bool] = True  # which caption, and which part of a longer piece

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, D) of every clip."""
        return (self.length, self.skeleton.features)

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        """The clips at some indices."""
        none = [0.0] * len(indices)
        return self._batch(indices, none, none, none)

    def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> dict[str, Any]:
        """The same with captions, parts and sides drawn."""
        which, where, turned = (rng.uniform(Stream.AUGMENT, part).tolist() for part in range(3))
        return self._batch(indices, which, where, turned if self.mirrored else [0.0] * len(indices))

    def _batch(
        self, indices: Sequence[int], which: Sequence[float], where: Sequence[float], turned: Sequence[float]
    ) -> dict[str, Any]:
        x = torch.zeros(len(indices), *self.shape)
        valid = torch.zeros(len(indices), self.length, dtype=torch.bool)
        captions = []
        for row, index in enumerate(indices):
            piece = self.pieces[index]
            rows = piece.stop - piece.start
            kept = min(rows - rows % UNIT or rows, self.length)
            start = piece.start + int(where[row] * (rows - kept + 1))
            found = torch.from_numpy(np.array(_open(piece.path)[start : start + kept], dtype=np.float32))
            if not bool(found.isfinite().all()):
                raise DataError(f"{piece.path} contains NaN or infinity: remove it from the lists")
            x[row, :kept] = found
            valid[row, :kept] = True
            caption = piece.captions[int(which[row] * len(piece.captions))]
            captions.append(mirror_words(caption) if turned[row] >= 0.5 else caption)
        sides = torch.tensor(turned) >= 0.5
        x[sides] = mirror(x[sides], self.skeleton)
        x = self.normal.apply(x) * valid[..., None]
        batch = {"x": x, "valid": valid, "caption": captions}
        if not self.labelled:
            return batch
        pieces = [self.pieces[index] for index in indices]
        labels = [piece.mirrored_label if side else piece.label for piece, side in zip(pieces, sides.tolist())]
        return batch | {"label": torch.tensor(labels)}

    @cached_property
    def labelled(self) -> bool:
        """Whether every piece has a class."""
        return all(piece.label >= 0 for piece in self.pieces)


@lru_cache(maxsize=256)
def _open(path: Path) -> np.ndarray:
    """A file of features (T, D), read from disk where it is used."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable .npy file: replace it or remove it from the lists") from error
    return found


def published(folder: Path, part: str, skeleton: Skeleton = HUMAN, shortest: int = 0, longest: int = 0) -> MotionFiles:
    """A part ("train", "val", "test") of HumanML3D or KIT.

    Pieces outside of the published lengths are left out: 40 to 199 rows, 24 to 199 for KIT. Raises DataError for a
    folder that is not laid out so.
    """
    shortest = shortest or (40 if skeleton is HUMAN else 24)
    longest = longest or 199
    listed = folder / f"{part}.txt"
    if not listed.is_file():
        raise DataError(f"{folder} has no {part}.txt: give the folder of HumanML3D or KIT-ML as it was published")
    pieces: list[Piece] = []
    for name in listed.read_text().split():
        path = folder / "new_joint_vecs" / f"{name}.npy"
        if not path.is_file():
            raise DataError(f"{part}.txt lists {name}, but {path} is missing: finish the data set's own conversion")
        pieces += [p for p in _pieces(path, folder / "texts" / f"{name}.txt", skeleton) if _fits(p, shortest, longest)]
    if not pieces:
        raise DataError(f"none of the clips of {listed} has {shortest} to {longest} frames")
    return MotionFiles(tuple(pieces), Normal.read(folder), skeleton)


def _fits(piece: Piece, shortest: int, longest: int) -> bool:
    return shortest <= piece.stop - piece.start <= longest


def _pieces(path: Path, text: Path, skeleton: Skeleton) -> list[Piece]:
    """The pieces that a text describes: the whole file, and parts of it."""
    shape = _open(path).shape
    if len(shape) != 2 or shape[1] != skeleton.features:
        raise DataError(f"{path} has the shape {shape}: its rows must be {skeleton.features} features")
    if not text.is_file():
        raise DataError(f"{path.name} has no captions: {text} is missing")
    whole: list[str] = []
    parts: list[Piece] = []
    for number, line in enumerate(read_text(text).splitlines(), start=1):
        if not line.strip():
            continue
        caption, start, stop = _line(line, f"{text}, line {number}")
        if start == 0 and stop == 0:
            whole.append(caption)
        else:
            rows = range(shape[0])[int(start * skeleton.fps) : int(stop * skeleton.fps)]
            parts += [Piece(path, rows.start, rows.stop, (caption,))] if len(rows) else []
    return [Piece(path, 0, shape[0], tuple(whole))] * bool(whole) + parts


def _line(line: str, place: str) -> tuple[str, float, float]:
    """A line "caption#words#from#to" of a published text; times that are not numbers count as 0."""
    words = line.strip().split("#")
    if len(words) != 4:
        raise DataError(f"{place}: a line should be caption#words#from#to, with three '#', not '{line[:60]}'")
    try:
        start, stop = float(words[2]), float(words[3])
    except ValueError as error:
        raise DataError(f"{place}: '{words[2]}' and '{words[3]}' should be times in seconds") from error
    return words[0], 0.0 if math.isnan(start) else start, 0.0 if math.isnan(stop) else stop
