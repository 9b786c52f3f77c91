"""Recordings of your own as training reads them: windows of one length, from a raw source or a prepared folder.

Windows overlap by half. In training each begins anywhere in its half, so that all beginnings are met; held-out windows
begin where they begin. Recordings that are shorter than a window are one, padded.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from core.data.dataset import DataError
from core.data.survey import Track, plainly
from core.text.words import words
from motion.cleaning import SHORTEST
from motion.data import LONGEST, UNIT, MotionFiles, Piece, published
from motion.features import Normal
from motion.feet import Feet
from motion.mirror import mirror_words
from motion.preparation import INDEX, Index, Prepared, prepare, read_index
from motion.smoothing import usual_deviation
from motion.splitting import Rows

FRAMES, SHORT = 120, 40  # rows of a window: six seconds, and two
TOKENS = 40  # of a caption that are read, at least
RARE = 4  # times that windows of a rare class are met at most, for one of the most frequent
MEASURED = 256  # clips of a published folder by which its feet are known


@dataclass(frozen=True)
class Parts:
    """What is trained on and what is held out, of one normalisation."""

    train: MotionFiles
    held_out: MotionFiles
    classes: tuple[str, ...]
    captioned: bool  # whether captions say more than the classes
    normal: Normal
    feet: Feet  # how feet rest and slide in the training part
    smoothing: float  # frames over which estimates are smoothed without harm to true motions

    @cached_property
    def captions(self) -> dict[str, int]:
        """The captions of the training part, each with its class; -1 is none."""
        return {caption: piece.label for piece in self.train.pieces for caption in piece.captions}

    def usual_rows(self, caption: str) -> int:
        """Rows that clips of a caption or class usually have, those of all clips where it is unknown."""
        rows = [min(piece.stop - piece.start, self.train.length) for piece in self.train.pieces]
        own = [count for count, piece in zip(rows, self.train.pieces) if caption in piece.captions]
        middle = sorted(own or rows)[len(own or rows) // 2]
        return middle - middle % UNIT or middle


def is_published(path: Path) -> bool:
    """Whether a folder is laid out as HumanML3D is."""
    return (path / "train.txt").is_file() and (path / "new_joint_vecs").is_dir()


def is_prepared(path: Path) -> bool:
    """Whether a folder was made by ``motion.preparation.prepare``."""
    return (path / INDEX).is_file()


def prepared_beside(path: Path) -> Path:
    """Where a raw source is prepared when a recipe is given it: beside it, with "-prepared" after its name.

    Where nothing can be written there, it is in the user's cache, under a hash of the source's path.
    """
    path = path.resolve()
    name = f"{path.stem if path.is_file() else path.name}-prepared"
    if (path.parent / name).is_dir() or os.access(path.parent, os.W_OK):
        return path.parent / name
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "langevin" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:12]}-{name}"


def open_parts(path: Path, frames: int, track: Track = plainly) -> Parts:
    """The parts of whatever a person has: a published or prepared folder, or a raw source, which is prepared beside it.

    Raises DataError, in one sentence, for what is none.
    """
    if is_published(path):
        part = "test" if (path / "test.txt").is_file() else "val"
        train, held_out = (replace(published(path, name), length=frames) for name in ("train", part))
        some = train.get(range(min(MEASURED, len(train))))
        clips = [train.normal.undo(x[valid]) for x, valid in zip(some["x"], some["valid"])]
        return Parts(train, held_out, (), True, train.normal, Feet.of(clips), usual_deviation(clips))
    folder, index = _prepared(path, track)
    normal = Normal.read(folder)
    texts = {caption for recording in index.recordings for caption in recording.captions}
    shown = _windows(index.recordings, index.classes, folder, frames, lambda recording: recording.train, frames // 2)
    hidden = _windows(index.recordings, index.classes, folder, frames, lambda recording: recording.held_out, 0)
    mirrored = all(mirror_words(name) in index.classes for name in index.classes)
    return Parts(
        MotionFiles(tuple(_evened(shown)), normal, length=frames, mirrored=mirrored),
        MotionFiles(tuple(_in_turn(hidden)), normal, length=frames),
        index.classes,
        len(texts) > len(index.classes),
        normal,
        index.feet,
        index.smoothing,
    )


def own_arguments(path: Path) -> dict[str, int]:
    """What data decide of a preset ``own``: rows of a window and tokens of a caption. Prepares raw recordings.

    A window is as long as most recordings, between two and six seconds; published clips keep the length they have.
    """
    if is_published(path):
        frames = LONGEST
    else:
        rows = sorted(recording.rows for recording in _prepared(path, plainly)[1].recordings)
        frames = min(max(rows[len(rows) // 2], SHORT), FRAMES) // UNIT * UNIT
    parts = open_parts(path, frames)
    longest = max(len(words(caption)) for caption in parts.captions)
    return {"frames": frames, "length": max(longest + 2, TOKENS)}


def spoken(label: str) -> str:
    """The name of a class as a caption has it: "basketball_signal" -> "basketball signal"."""
    return " ".join(label.replace("_", " ").replace("-", " ").split())


def _prepared(path: Path, track: Track) -> tuple[Path, Index]:
    """The folder of prepared recordings, and what it holds; a raw source is prepared first."""
    if is_prepared(path):
        index = read_index(path)
        if index is None:
            raise DataError(f"{path} was prepared by another version: prepare the recordings again, into a new folder")
        return path, index
    folder = prepared_beside(path)
    if not is_prepared(folder):
        print(f"langevin: recordings are prepared into {folder}", file=sys.stderr)
    return folder, prepare(path, folder, track)


def _windows(
    recordings: Iterable[Prepared],
    classes: Sequence[str],
    folder: Path,
    frames: int,
    rows_of: Callable[[Prepared], Rows],
    spare: int,
) -> list[Piece]:
    """Windows of recordings, each with ``spare`` rows more for training to begin in."""
    found = []
    for recording in recordings:
        first, last = rows_of(recording)
        captions = _captions(recording)
        label, other = (
            classes.index(name) if name in classes else -1 for name in (recording.label, mirror_words(recording.label))
        )
        starts = range(first, max(last - frames, first) + 1, max(frames // 2, 1))
        for start in starts:
            stop = last if start == starts[-1] else min(start + frames + spare, last)
            stop = stop if spare else min(stop, start + frames)
            if stop - start >= SHORTEST:
                found.append(Piece(folder / recording.file, start, stop, captions, label, other))
    return found


def _captions(recording: Prepared) -> tuple[str, ...]:
    """What a recording is asked for by: its captions and its class; without either the empty caption."""
    own = (*recording.captions, *([spoken(recording.label)] if recording.label else []))
    return tuple(dict.fromkeys(own)) or ("",)


def _evened(pieces: Sequence[Piece]) -> list[Piece]:
    """Windows of which those of rare classes are met more often, by the root of how rare they are."""
    counts = Counter(piece.label for piece in pieces)
    most = max(counts.values(), default=1)
    times = {label: min(round((most / count) ** 0.5), RARE) for label, count in counts.items()}
    return [piece for piece in pieces for _ in range(times[piece.label])]


def _in_turn(pieces: Sequence[Piece]) -> list[Piece]:
    """Windows of all classes in turn, so that the first few show each."""
    by_label = [[piece for piece in pieces if piece.label == label] for label in sorted({p.label for p in pieces})]
    return [piece for row in zip_longest(*by_label) for piece in row if piece is not None]
