"""Recordings to features: a folder that training reads, made from what ``motion.sources`` finds.

    motions.json   what each recording is, which rows are trained on and which held out, statistics of feet, left out
    features/      a file for each recording: (T, 263), 20 frames a second
    Mean.npy, Std.npy   of the rows that are trained on, and of their mirror images

Files are written whole. A recording whose features are there already is not read again: the name of the file has the
hash of the recording's content in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.dataset import DataError
from core.data.survey import LeftOut, Track
from core.files import whole
from motion.cleaning import features_of
from motion.features import Normal
from motion.feet import Feet
from motion.mirror import mirror
from motion.skeleton import HUMAN
from motion.smoothing import usual_deviation
from motion.sources import Recording, Source, grouped, open_source
from motion.splitting import Rows, split

INDEX = "motions.json"
FORMAT = 1  # of the folder, and of how features are made: what was prepared by another is prepared again


@dataclass(frozen=True)
class Prepared:
    """A recording in a prepared folder: its features, what it shows, and the rows that are trained on and held out."""

    name: str
    file: str
    rows: int
    label: str
    captions: tuple[str, ...]
    group: str
    train: Rows
    held_out: Rows


@dataclass(frozen=True)
class Index:
    """What a prepared folder holds."""

    recordings: tuple[Prepared, ...]
    classes: tuple[str, ...]
    feet: Feet
    smoothing: float  # see ``motion.smoothing.usual_deviation``
    left_out: tuple[LeftOut, ...]
    duplicates: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    signature: str  # of the files of the source


def prepare(source: Path, out: Path, track: Track) -> Index:
    """Prepare recordings, and go on where an earlier run stopped. Raises DataError if none can be used.

    What an earlier preparation of other recordings left in the folder is not used, and stays.
    """
    if (source / INDEX).is_file() or (source / "new_joint_vecs").is_dir():
        raise DataError(f"{source} holds features already: train on it as it is")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} lies in {source}, whose files are read: give a folder elsewhere")
    signature = signature_of(source)
    if (index := read_index(out)) is not None and index.signature == signature:
        return index
    opened = open_source(source)
    left_out = list(opened.left_out)
    seen: dict[str, list[str]] = {}  # content -> the recordings that have it
    used: list[Recording] = []
    files: list[str] = []
    for recording in track(opened.recordings, "preparing recordings"):
        digest = recording.digest()
        seen.setdefault(digest, []).append(recording.name)
        if len(seen[digest]) > 1:
            left_out.append(LeftOut(recording.name, f"it is the same as {seen[digest][0]}"))
            continue
        file = _file_of(recording, digest)
        try:
            if not (out / file).is_file():
                features = features_of(recording.open()).numpy()
                with whole(out / file) as draft, open(draft, "wb") as opened_draft:
                    np.save(opened_draft, features)
        except ValueError as error:
            left_out.append(LeftOut(recording.name, str(error)))
            continue
        used.append(recording)
        files.append(file)
    if not used:
        raise DataError(f"no recording of {source} could be used; {left_out[0].name}: {left_out[0].why}")
    return _indexed(opened, used, files, out, left_out, [tuple(names) for names in seen.values() if len(names) > 1])


def _indexed(
    source: Source,
    used: Sequence[Recording],
    files: Sequence[str],
    out: Path,
    left_out: Sequence[LeftOut],
    duplicates: Sequence[tuple[str, ...]],
) -> Index:
    """Split what was made into training and held-out rows, measure statistics, and write all of it."""
    features = [np.load(out / file, mmap_mode="r", allow_pickle=False) for file in files]
    rows = [len(found) for found in features]
    groups = grouped(used, rows)
    parts = split([recording.label for recording in used], groups, rows, [recording.test for recording in used])
    recordings = tuple(
        Prepared(each.name, file, count, each.label, each.captions, group, train, held_out)
        for each, file, count, group, (train, held_out) in zip(used, files, rows, groups, parts)
    )
    shown = [torch.from_numpy(np.array(found[slice(*each.train)])) for found, each in zip(features, recordings)]
    shown = [found for found in shown if len(found) > 1]
    if not shown:
        raise DataError(f"nothing of {source.path} is left to train on: its split gives every recording to the test")
    every = torch.cat(shown)
    Normal.of(torch.cat([every, mirror(every)]), HUMAN.joints).write(out)
    index = Index(
        recordings,
        tuple(sorted({recording.label for recording in used} - {""})),
        Feet.of(shown),
        usual_deviation(shown),
        tuple(left_out),
        tuple(duplicates),
        (*source.notes, *_group_note(recordings)),
        signature_of(source.path),
    )
    with whole(out / INDEX) as draft:
        draft.write_text(json.dumps({"format": FORMAT, **asdict(index)}, indent=1), encoding="utf-8")
    return index


def _group_note(recordings: Sequence[Prepared]) -> list[str]:
    members = [recording.group for recording in recordings]
    several = {group for group in members if members.count(group) > 1}
    count = sum(group in several for group in members)
    return [f"{count} recordings are in {len(several)} groups that the split keeps together"] * bool(several)


def _file_of(recording: Recording, digest: str) -> str:
    """Where the features of a recording lie: its name, and a hash of its content."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", recording.name)[-80:]
    return f"features/{name}-{hashlib.sha256(f'{FORMAT} {digest}'.encode()).hexdigest()[:12]}.npy"


def signature_of(source: Path) -> str:
    """A hash of the names, sizes and times of a source's files, by which a change is seen without reading them."""
    files = [source] if source.is_file() else [file for file in sorted(source.rglob("*")) if file.is_file()]
    about = [(str(file.relative_to(source)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([FORMAT, about]).encode()).hexdigest()


def read_index(folder: Path) -> Index | None:
    """What a prepared folder holds; None for none, or one of another format. Raises DataError if it is broken."""
    if not (folder / INDEX).is_file():
        return None
    try:
        found: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if found.pop("format") != FORMAT:
            return None
        recordings = tuple(
            Prepared(**{**each, **{key: tuple(each[key]) for key in ("captions", "train", "held_out")}})
            for each in found["recordings"]
        )
        return Index(
            recordings,
            tuple(found["classes"]),
            Feet(**found["feet"]),
            float(found["smoothing"]),
            tuple(LeftOut(*each) for each in found["left_out"]),
            tuple(tuple(names) for names in found["duplicates"]),
            tuple(found["notes"]),
            found["signature"],
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{folder / INDEX} is broken: delete the folder and prepare the recordings again") from error
