"""What pictures are, before anything is trained on them: see ``core.data.survey``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.data.dataset import DataError
from core.data.source import Facts, Part, Source, grouped
from core.data.survey import LeftOut, Shape, Survey, Track, plainly
from core.media.picture import CENTRE, resize_and_crop, to_tensor
from image.arrays import open_arrays
from image.data import same_images
from image.folder import arrays_at, evenly, open_files, read_headers
from image.picture import Picture
from image.source import decode

THUMBNAIL = 128  # pixels of the side of a picture on a contact sheet, at most


def survey(path: Path, track: Track = plainly, thorough: bool = True) -> Survey:
    """What the pictures of a folder, of tar shards or of an .npz file are. Raises DataError where there are none."""
    if (file := arrays_at(path)) is not None:
        return _of_arrays(file)
    opened = open_files(path, track)
    source, left_out, headers = opened.source, list(opened.left_out), opened.headers
    if not headers:
        headers, kept, broken = read_headers(source, track)
        source = Part(source, kept)
        left_out += broken
    seen = _decoded(source, track) if thorough else _Seen([], list(range(len(source))))
    left_out += seen.broken
    colours = seen.channels if thorough else [header.channels for header in headers]
    channels = max((colours[index] for index in seen.kept), default=3)
    shapes: Counter[Shape] = Counter((channels, *headers[index].size) for index in seen.kept)
    transparent = sum(headers[index].transparent for index in seen.kept)
    facts = source.facts.some(seen.kept)
    names = [source.name(index) for index in seen.kept]
    captions = [source.caption(index) for index in seen.kept] if source.captioned else []
    notes = [*opened.notes]
    if len({shape[1:] for shape in shapes}) > 1:
        notes.append("sides differ: pictures are scaled to cover the size that is trained, and cropped in the middle")
    if transparent:
        notes.append(f"{transparent:,} have transparency, which is shown on white")
    return _surveyed(opened.kind, facts, shapes, names, seen.same, captions, left_out, notes)


@dataclass
class _Seen:
    """What decoding found: the channels that differ in each picture, which are usable, and which are the same."""

    channels: list[int]
    kept: list[int]
    same: tuple[tuple[int, ...], ...] = ()  # rows of ``kept``
    broken: tuple[LeftOut, ...] = ()


def _decoded(source: Source, track: Track) -> _Seen:
    channels: list[int] = []
    kept: list[int] = []
    broken: list[LeftOut] = []
    rows: dict[bytes, list[int]] = {}
    for index in track(range(len(source)), "decoding pictures"):
        try:
            pixels = np.asarray(decode(source, index))
        except DataError as error:
            broken.append(LeftOut(source.name(index), str(error)))
            channels.append(3)
            continue
        channels.append(1 if bool((pixels == pixels[..., :1]).all()) else 3)
        key = hashlib.blake2b(f"{pixels.shape}".encode() + pixels.tobytes(), digest_size=16).digest()
        rows.setdefault(key, []).append(len(kept))
        kept.append(index)
    return _Seen(channels, kept, tuple(tuple(each) for each in rows.values() if len(each) > 1), tuple(broken))


def _of_arrays(path: Path) -> Survey:
    images, facts = open_arrays(path)
    names = [f"image {index}" for index in range(len(images))]
    shapes = {tuple(images.shape[1:]): len(images)}
    captions = list(facts.captions or ())
    return _surveyed("pictures in arrays of an .npz file", facts, shapes, names, same_images(images), captions, [], [])


def _surveyed(
    kind: str,
    facts: Facts,
    shapes: Mapping[Shape, int],
    names: Sequence[str],
    same: Sequence[Sequence[int]],
    captions: Sequence[str],
    left_out: Sequence[LeftOut],
    notes: Sequence[str],
) -> Survey:
    count = len(names)
    groups = grouped(facts, count, same)
    leaked = sum(len(set(rows) - facts.test) for rows in same if facts.test & set(rows))
    found = [*notes]
    if leaked:
        found.append(f"{leaked} training pictures are in the test split too, and are not trained on")
    members = Counter(facts.labels or ())
    return Survey(
        kind,
        count,
        shapes,
        facts.classes,
        tuple(members[label] for label in range(len(facts.classes))),
        len(captions),
        len(set(captions)),
        tuple(facts.numbers),
        0 if groups is None else len(set(groups)),
        len(facts.test),
        tuple(tuple(names[row] for row in rows) for rows in same),
        tuple(left_out),
        tuple(found),
    )


def examples(path: Path, count: int) -> list[Picture]:
    """At most so many pictures from all over some data, as squares of one size, with their captions or classes."""
    if (file := arrays_at(path)) is not None:
        images, facts = open_arrays(file)
        rows = evenly(len(images), count)
        from image.arrays import floats

        return [Picture(floats(images[row]), _words(facts, row)) for row in rows]
    source = open_files(path).source
    found = []
    for index in evenly(len(source), count):
        try:
            found.append((index, decode(source, index)))
        except DataError:
            continue
    side = min(THUMBNAIL, max(min(picture.size) for _, picture in found)) if found else 0
    shown = []
    for index, picture in found:
        cut, _ = resize_and_crop(picture, (side, side), CENTRE)
        words = source.caption(index) if source.captioned else _words(source.facts, index)
        shown.append(Picture(to_tensor(cut), words))
    return shown


def _words(facts: Facts, index: int) -> str:
    """The caption of an example, or else its class."""
    if facts.captions is not None:
        return facts.captions[index]
    return facts.classes[facts.labels[index]] if facts.labels is not None else ""
