"""Recordings as people have them: folders of .bvh, .glb, .npz and .npy files, of which an .npz may hold many clips.

Captions   .txt beside a file, a line each; a table; an .npz; or the words of the class
Classes    a table or an .npz; folders ("salsa/10.bvh"); or names that only a number tells apart ("salsa_10.bvh")
Groups     a table or an .npz; recordings of a class that are as long to the frame, where most lengths differ
Splits     a table or an .npz; folders "train" and "test"
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.data.captions import read_text
from core.data.dataset import DataError
from core.data.survey import LeftOut
from motion.archive import TESTS, Archive, open_archive
from motion.files import READERS, read
from motion.tables import Row, rows_of
from motion.take import Take

TRAINS = ("train", "training")
FOREIGN = (".fbx", ".c3d", ".amc", ".asf", ".trc", ".usd", ".usdz", ".gltf")


@dataclass(frozen=True)
class Recording:
    """A clip of a source. ``test`` says whether it is of a given test split; None where none is given."""

    name: str
    digest: Callable[[], str]  # of its content
    open: Callable[[], Take]  # raises ValueError for what cannot be read
    label: str = ""
    captions: tuple[str, ...] = ()
    group: str = ""
    test: bool | None = None


@dataclass(frozen=True)
class Source:
    """The recordings of a file or folder, and the files that are none."""

    path: Path
    recordings: tuple[Recording, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return tuple(sorted({recording.label for recording in self.recordings} - {""}))


def motion_files(path: Path) -> list[Path]:
    """The files that may hold motions: a file itself, or those in a folder, hidden ones left out."""
    if path.is_file():
        return [path] if path.suffix.lower() in READERS else []
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in READERS
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def open_source(path: Path) -> Source:
    """All recordings of a file or folder. Raises DataError where there are none."""
    if not path.exists():
        raise DataError(f"{path} does not exist: give a folder of recordings, or an .npz file of clips")
    files = motion_files(path)
    found: list[Recording] = []
    left_out: list[LeftOut] = []
    for file in files:
        try:
            found += _recordings(path, file)
        except ValueError as error:
            left_out.append(LeftOut(_name(path, file), str(error)))
    if not found:
        why = f"; the first file: {left_out[0].why}" if left_out else ""
        raise DataError(f"{path} holds no motions: put {', '.join(READERS)} files into it{why}")
    notes = list(_strangers(path))
    table = rows_of(path)
    if table:
        found = [_with_row(recording, table) for recording in found]
    else:
        found = _classified(found)
    return Source(path, tuple(found), tuple(left_out), tuple(notes))


def _name(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix() if root.is_dir() else file.name


def _recordings(root: Path, file: Path) -> list[Recording]:
    if file.suffix.lower() == ".npz":
        archive = open_archive(file)
        if len(archive) > 1 or "lengths" in archive.small:
            return _clips(root, file, archive)
    stem = Path(_name(root, file)).with_suffix("").as_posix()
    text = file.with_suffix(".txt")
    lines = read_text(text).splitlines() if text.is_file() else []
    captions = tuple(words for words in (line.split("#")[0].strip() for line in lines) if words)
    first = stem.split("/")[0].lower() if "/" in stem else ""
    test = True if first in TESTS else False if first in TRAINS else None

    def hashed() -> str:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    return [Recording(_name(root, file), hashed, lambda: read(file), captions=captions, test=test)]


def _clips(root: Path, file: Path, archive: Archive) -> list[Recording]:
    """The clips of an .npz file."""
    before = "" if root == file else f"{Path(_name(root, file)).with_suffix('').as_posix()}/"
    fields = (
        archive.clip_names(),
        archive.texts("labels", "label", "content", "classes", "actions"),
        archive.texts("captions", "caption"),
        archive.texts("groups", "group", "subjects"),
        archive.tests(),
    )

    def clip(number: int) -> tuple[Callable[[], str], Callable[[], Take]]:
        return lambda: archive.digest(number), lambda: archive.take(number)

    return [
        Recording(before + name, *clip(number), label, (caption,) if caption else (), group, test)
        for number, (name, label, caption, group, test) in enumerate(zip(*fields))
    ]


def _with_row(recording: Recording, table: Mapping[str, Row]) -> Recording:
    """A recording with what a table knows of it, by its name, with or without folder and ending."""
    keys = (recording.name, Path(recording.name).with_suffix("").as_posix(), Path(recording.name).stem)
    row = next((table[key] for key in keys if key in table), None)
    if row is None:
        return recording
    return replace(
        recording,
        label=row.label or recording.label,
        captions=row.captions or recording.captions,
        group=row.group or recording.group,
        test=recording.test if row.test is None else row.test,
    )


def _classified(found: Sequence[Recording]) -> list[Recording]:
    """Recordings with classes by their folders or names, where nothing else names any and captions are few."""
    if any(recording.label for recording in found) or all(recording.captions for recording in found):
        return list(found)
    for rule in (_folder, _stem):
        labels = [rule(recording.name) for recording in found]
        members = Counter(labels)
        if "" not in members and 2 <= len(members) <= max(len(found) // 2, 2) and len(members) < len(found):
            return [replace(recording, label=label) for recording, label in zip(found, labels)]
    return list(found)


def _folder(name: str) -> str:
    """The folder of a recording, below "train" and "test"; "" without one."""
    parts = list(Path(name).parts[:-1])
    while parts and parts[0].lower() in (*TESTS, *TRAINS):
        parts = parts[1:]
    return parts[0] if parts else ""


def _stem(name: str) -> str:
    """The name of a recording without its number."""
    return re.sub(r"[\W_]*\d+$", "", Path(name).stem).strip()


def _strangers(path: Path) -> list[str]:
    """A sentence on files of formats that are not read."""
    if path.is_file():
        return []
    kinds = Counter(file.suffix.lower() for file in path.rglob("*") if file.suffix.lower() in FOREIGN)
    return [f"{count} {kind} files are not read: convert them to .bvh or .glb" for kind, count in sorted(kinds.items())]


def grouped(recordings: Sequence[Recording], rows: Sequence[int]) -> list[str]:
    """What each recording belongs to, for a split; rows: how long each is.

    Where a source names no groups, two recordings of a class that are as long to the frame are taken for two people of
    one scene, if that is so of most of the class, and of no three.
    """
    if any(recording.group for recording in recordings):
        return [recording.group or f"alone: {recording.name}" for recording in recordings]
    alike: dict[tuple[str, int], list[str]] = defaultdict(list)
    for recording, count in zip(recordings, rows):
        alike[recording.label, count].append(recording.name)
    members = Counter(recording.label for recording in recordings)
    paired = Counter(label for (label, _), names in alike.items() for _ in names if len(names) == 2)
    more = {label for (label, _), names in alike.items() if len(names) > 2}
    found = []
    for recording, count in zip(recordings, rows):
        names = alike[recording.label, count]
        scenes = paired[recording.label] > members[recording.label] / 2 and recording.label not in more
        found.append(f"scene of {names[0]}" if scenes and len(names) == 2 else f"alone: {recording.name}")
    return found
