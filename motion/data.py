"""Captioned motions from folders: HumanML3D and KIT as published, or recordings of your own.

Published:  new_joint_vecs/<name>.npy, texts/<name>.txt, Mean.npy, Std.npy, train.txt, val.txt, test.txt
Your own:   <name>.bvh, .npz or .npy with <name>.txt beside it, a caption a line

A line of a published text is ``caption#words#from#to``; where the times are not 0 it tells only that part. Clips are
padded to one length; of a longer one, training takes a part anew each time it is met.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.random import Stream, TrainingRNG
from motion.features import Normal, canonical, encode
from motion.files import read
from motion.kinematics import resample
from motion.skeleton import HUMAN, Skeleton

LONGEST = 196  # rows of features
UNIT = 4  # lengths are multiples of this
ENDINGS = (".bvh", ".npz", ".npy")


class MotionError(ValueError):
    """A data set that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Piece:
    """Rows of a file of features, and what can be said of them."""

    path: Path
    start: int
    stop: int
    captions: tuple[str, ...]


@dataclass(frozen=True)
class MotionFiles:
    """Pieces as a data set: "x" (B, length, D) normalised, 0 after the end; "valid" (B, length); "caption".

    ``get`` takes the first caption and the beginning; training draws a caption, and which part of a longer piece.
    """

    pieces: tuple[Piece, ...]
    normal: Normal
    skeleton: Skeleton = HUMAN
    length: int = LONGEST

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, D) of every clip."""
        return (self.length, self.skeleton.features)

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        """The clips at some indices."""
        return self._batch(indices, [0.0] * len(indices), [0.0] * len(indices))

    def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> dict[str, Any]:
        """The same with captions and parts drawn."""
        which, where = rng.uniform(Stream.AUGMENT, 0).tolist(), rng.uniform(Stream.AUGMENT, 1).tolist()
        return self._batch(indices, which, where)

    def _batch(self, indices: Sequence[int], which: Sequence[float], where: Sequence[float]) -> dict[str, Any]:
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
                raise MotionError(f"{piece.path} contains NaN or infinity: remove it from the lists")
            x[row, :kept] = self.normal.apply(found)
            valid[row, :kept] = True
            captions.append(piece.captions[int(which[row] * len(piece.captions))])
        return {"x": x, "valid": valid, "caption": captions}


def _open(path: Path) -> np.ndarray:
    """A file of features (T, D), read from disk where it is used."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MotionError(f"{path} is not a readable .npy file: replace it or remove it from the lists") from error
    return found


def published(folder: Path, part: str, skeleton: Skeleton = HUMAN, shortest: int = 0, longest: int = 0) -> MotionFiles:
    """A part ("train", "val", "test") of HumanML3D or KIT.

    Pieces outside of the published lengths are left out: 40 to 199 rows, 24 to 199 for KIT. Raises MotionError for a
    folder that is not laid out so.
    """
    shortest = shortest or (40 if skeleton is HUMAN else 24)
    longest = longest or 199
    listed = folder / f"{part}.txt"
    if not listed.is_file():
        raise MotionError(f"{folder} has no {part}.txt: give the folder of HumanML3D or KIT-ML as it was published")
    pieces: list[Piece] = []
    for name in listed.read_text().split():
        path = folder / "new_joint_vecs" / f"{name}.npy"
        if not path.is_file():
            raise MotionError(f"{part}.txt lists {name}, but {path} is missing: finish the data set's own conversion")
        pieces += [p for p in _told(path, folder / "texts" / f"{name}.txt", skeleton) if _fits(p, shortest, longest)]
    if not pieces:
        raise MotionError(f"none of the clips of {listed} has {shortest} to {longest} frames")
    return MotionFiles(tuple(pieces), Normal.read(folder), skeleton)


def _fits(piece: Piece, shortest: int, longest: int) -> bool:
    return shortest <= piece.stop - piece.start <= longest


def _told(path: Path, text: Path, skeleton: Skeleton) -> list[Piece]:
    """The pieces that a text tells of: the whole file, and parts of it."""
    shape = _open(path).shape
    if len(shape) != 2 or shape[1] != skeleton.features:
        raise MotionError(f"{path} has the shape {shape}: its rows must be {skeleton.features} features")
    if not text.is_file():
        raise MotionError(f"{path.name} has no captions: {text} is missing")
    whole: list[str] = []
    parts: list[Piece] = []
    for number, line in enumerate(text.read_text(encoding="utf-8").splitlines(), start=1):
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
        raise MotionError(f"{place}: a line should be caption#words#from#to, with three '#', not '{line[:60]}'")
    try:
        start, stop = float(words[2]), float(words[3])
    except ValueError as error:
        raise MotionError(f"{place}: '{words[2]}' and '{words[3]}' should be times in seconds") from error
    return words[0], 0.0 if math.isnan(start) else start, 0.0 if math.isnan(stop) else stop


def prepare(folder: Path, into: Path) -> list[str]:
    """Turn recordings of your own into a published folder: features at 20 frames a second, texts, lists, statistics.

    Every tenth file is held out, as "test". Clips longer than 196 rows are cut into pieces, all of which are kept; what
    has no caption is told by the words of its name. Returns a sentence for each file that had to be left out, and
    raises MotionError if none could be used.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS) if folder.is_dir() else []
    if not files:
        raise MotionError(f"{folder} holds no motions: put {', '.join(ENDINGS)} files into it, and captions as .txt")
    (into / "new_joint_vecs").mkdir(parents=True, exist_ok=True)
    (into / "texts").mkdir(exist_ok=True)
    names: list[str] = []
    frames: list[Tensor] = []
    complaints: list[str] = []
    for path in files:
        try:
            take = read(path)
            features = encode(canonical(resample(take.joints, take.fps, HUMAN.fps)))
        except ValueError as error:
            complaints.append(f"{path.name} was left out: {error}")
            continue
        captions = _captions(path, take.caption)
        for number, piece in enumerate(features.split(LONGEST)):
            name = "_".join([*path.relative_to(folder).with_suffix("").parts, f"{number:03d}"])
            np.save(into / "new_joint_vecs" / f"{name}.npy", piece.numpy())
            (into / "texts" / f"{name}.txt").write_text("".join(f"{c}##0.0#0.0\n" for c in captions), encoding="utf-8")
            names.append(name)
        frames.append(features)
    if not names:
        raise MotionError(f"no file of {folder} could be used; the first: {complaints[0]}")
    Normal.of(torch.cat(frames), HUMAN.joints).write(into)
    held = names[9::10] or names[-1:]
    kept = [name for name in names if name not in set(held)] or names
    for part, members in (("train", kept), ("val", held), ("test", held)):
        (into / f"{part}.txt").write_text("\n".join(members) + "\n")
    (into / "left_out.json").write_text(json.dumps(complaints, indent=1))
    return complaints


def _captions(path: Path, own: str) -> list[str]:
    text = path.with_suffix(".txt")
    lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else [own]
    said = [line.split("#")[0].strip() for line in lines if line.strip()]
    return said or [path.stem.replace("_", " ").replace("-", " ")]
