"""What recordings are before anything is trained on them, and examples of them: ``langevin data``."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from core.data.survey import LeftOut, Survey, Track
from motion.archive import POSITIONS
from motion.cleaning import SHORTEST, features_of, trimmed
from motion.data import MotionFiles, published
from motion.features import decode
from motion.preparation import read_index
from motion.skeleton import HUMAN
from motion.sources import Recording, Source, grouped, motion_files, open_source
from motion.take import Take
from motion.windows import is_prepared, is_published


def count_motions(path: Path) -> int:
    """How many files of a folder hold motions, from names, and of .npz and .npy files from their headers."""
    if is_published(path):
        return len(list((path / "new_joint_vecs").glob("*.npy")))
    if is_prepared(path):
        return len(list((path / "features").glob("*.npy")))
    return sum(_HEADERS.get(file.suffix.lower(), _any)(file) for file in motion_files(path))


def _any(path: Path) -> bool:
    return True


def _has_positions(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return bool({f"{key}.npy" for key in POSITIONS} & set(file.namelist()))
    except (OSError, zipfile.BadZipFile):
        return False


def _has_poses(path: Path) -> bool:
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return False
    return shape[1:] in ((HUMAN.joints, 3), (HUMAN.features,))


_HEADERS = {".npz": _has_positions, ".npy": _has_poses}


def survey(path: Path, track: Track, thorough: bool) -> Survey:
    """What recordings are, and what would be left out and why; nothing is written.

    Every recording is read, as only its features tell whether it can be used; ``thorough`` also finds what is there
    twice. Raises DataError where there are no motions.
    """
    if is_published(path):
        return _of_published(path)
    if is_prepared(path):
        return _of_prepared(path)
    source = open_source(path)
    left_out = list(source.left_out)
    rows: list[int] = []
    same: dict[str, list[str]] = {}
    used: list[Recording] = []
    cut = 0
    for recording in track(source.recordings, "reading recordings"):
        try:
            take = recording.open()
            features = features_of(take)
        except ValueError as error:
            left_out.append(LeftOut(recording.name, f"{recording.name} was left out: {error}"))
            continue
        cut += len(trimmed(take)) < len(take.joints)
        if thorough:
            same.setdefault(recording.digest(), []).append(recording.name)
        rows.append(len(features))
        used.append(recording)
    notes = [*source.notes, *[f"{cut} recordings begin or end with a rest pose, which is cut off"] * bool(cut)]
    return _survey(source, used, rows, left_out, [names for names in same.values() if len(names) > 1], notes)


def _survey(
    source: Source,
    used: list[Recording],
    rows: list[int],
    left_out: list[LeftOut],
    same: list[list[str]],
    notes: list[str],
) -> Survey:
    groups = grouped(used, rows)
    labels = Counter(recording.label for recording in used)
    classes = tuple(sorted(set(labels) - {""}))
    return Survey(
        kind=f"recordings of motion, {sum(rows) / HUMAN.fps / 60:.1f} minutes",
        count=len(used),
        shapes=dict(Counter((count, HUMAN.features) for count in rows)),
        classes=classes,
        members=tuple(labels[name] for name in classes),
        captioned=sum(bool(recording.captions) for recording in used),
        captions=len({caption for recording in used for caption in recording.captions}),
        groups=len(set(groups)) if len(set(groups)) < len(groups) else 0,
        test=sum(recording.test is True for recording in used),
        duplicates=tuple(tuple(names) for names in same),
        left_out=tuple(left_out),
        notes=tuple(notes),
    )


def _of_prepared(path: Path) -> Survey:
    """What a prepared folder says of itself."""
    index = read_index(path)
    assert index is not None
    labels = Counter(recording.label for recording in index.recordings)
    held_out = sum(recording.held_out[1] - recording.held_out[0] for recording in index.recordings)
    rows = sum(recording.rows for recording in index.recordings)
    return Survey(
        kind=f"prepared recordings of motion, {rows / HUMAN.fps / 60:.1f} minutes",
        count=len(index.recordings),
        shapes=dict(Counter((recording.rows, HUMAN.features) for recording in index.recordings)),
        classes=index.classes,
        members=tuple(labels[name] for name in index.classes),
        captioned=sum(bool(recording.captions) for recording in index.recordings),
        captions=len({caption for recording in index.recordings for caption in recording.captions}),
        test=sum(recording.train == (0, 0) for recording in index.recordings),
        duplicates=index.duplicates,
        left_out=index.left_out,
        notes=(*index.notes, f"{held_out / max(rows, 1):.0%} of the rows are held out"),
    )


def _of_published(path: Path) -> Survey:
    """What a folder laid out as HumanML3D holds."""
    parts = [published(path, name) for name in ("train", *(["test"] if (path / "test.txt").is_file() else []))]
    pieces = [piece for part in parts for piece in part.pieces]
    rows = [piece.stop - piece.start for piece in pieces]
    return Survey(
        kind=f"features laid out as HumanML3D, {sum(rows) / HUMAN.fps / 60:.1f} minutes",
        count=len(pieces),
        shapes=dict(Counter((count, HUMAN.features) for count in rows)),
        captioned=len(pieces),
        captions=len({caption for piece in pieces for caption in piece.captions}),
        test=sum(len(part) for part in parts[1:]),
    )


def examples(path: Path, count: int) -> list[Take]:
    """At most so many takes from all over the data, twelve seconds of each at most."""
    if is_published(path):
        return _first(published(path, "train"), count)
    if is_prepared(path):
        index = read_index(path)
        assert index is not None
        chosen = index.recordings[:: max(len(index.recordings) // count, 1)][:count]
        rows = [np.load(path / each.file, mmap_mode="r", allow_pickle=False)[: 12 * int(HUMAN.fps)] for each in chosen]
        return [
            Take(decode(torch.from_numpy(np.array(found))), HUMAN.fps, each.label or each.name)
            for found, each in zip(rows, chosen)
        ]
    recordings = open_source(path).recordings
    found: list[Take] = []
    for recording in recordings[:: max(len(recordings) // count, 1)][:count]:
        try:
            features = features_of(recording.open())[: 12 * int(HUMAN.fps)]
        except ValueError:
            continue
        found.append(Take(decode(features), HUMAN.fps, recording.label or recording.name))
    return found


def _first(data: MotionFiles, count: int) -> list[Take]:
    batch = data.get(range(0, len(data), max(len(data) // count, 1))[:count])
    joints = decode(data.normal.undo(batch["x"]))
    return [
        Take(clip[exists], HUMAN.fps, caption)
        for clip, exists, caption in zip(joints, batch["valid"], batch["caption"])
        if int(exists.sum()) > SHORTEST
    ]
