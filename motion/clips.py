"""Clips of motion as objects and as files, whose suffix says how they are written.

.gif .mp4         a film of all clips, one below the other
.bvh .npz .glb    a file for each clip: NAME-000.bvh, NAME-001.bvh, ...
.png              a contact sheet of all clips

Settings are in the metadata of a PNG, and beside every other file, as NAME.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core import provenance
from core.files import whole
from core.media.sheet import save_page
from core.model import Metadata, Modality
from core.prompts import Conditions
from motion.data import LONGEST
from motion.drawing import sheet, write_film
from motion.features import Normal, decode
from motion.files import Take, read, write
from motion.generator import normal_of
from motion.skeleton import HUMAN

FILMED = 8  # clips in a film at most
SHOWN = 16  # clips on a sheet of a run at most
FILMS, SHEETS = (".gif", ".mp4"), (".png",)


@dataclass(frozen=True)
class Clips(Modality[Take]):
    """Motions of one skeleton, in features of a normalisation."""

    normal: Callable[[], Normal] = normal_of
    frames: int = LONGEST  # that a model makes at once

    name = "motion"
    suffixes = (*FILMS, ".bvh", ".npz", ".glb", *SHEETS)

    def decode(self, data: Tensor, conditions: Conditions) -> list[Take]:
        joints = decode(self.normal().undo(data.float().cpu()))
        valid = conditions.get("valid")
        rows = [len(clip) for clip in joints] if valid is None else torch.as_tensor(valid).sum(1).tolist()
        captions = [str(caption) for caption in conditions.get("caption", [""] * len(joints))]
        return [Take(clip[:n], HUMAN.fps, caption) for clip, n, caption in zip(joints, rows, captions, strict=True)]

    def read(self, path: Path) -> Take:
        if not path.is_file():
            raise ValueError(f"{path} is no file: give a motion")
        return read(path)

    def picture(self, thing: Take) -> Any:
        return sheet([thing.joints], [thing.caption])

    @property
    def preview_suffix(self) -> str:
        """Contact sheets: drawn in seconds, where a film takes a minute."""
        return SHEETS[0]

    def preview(self, path: Path, objects: Sequence[Take], metadata: Metadata) -> None:
        self.write(path, objects[:SHOWN], metadata)

    def write(self, path: Path, objects: Sequence[Take], metadata: Metadata) -> None:
        names = self.files_of(path, len(objects))
        with ExitStack() as drafts:
            self._write([drafts.enter_context(whole(name)) for name in names], objects, metadata)
        if path.suffix.lower() not in SHEETS:
            for number, name in enumerate(names):
                provenance.write_sidecar(name, {**metadata, "file": number})

    def files_of(self, path: Path, count: int) -> list[Path]:
        """The files that so many clips are written to under a name."""
        if path.suffix.lower() in (*FILMS, *SHEETS) or count == 1:
            return [path]
        return [path.with_name(f"{path.stem}-{number:03d}{path.suffix}") for number in range(count)]

    def _write(self, files: Sequence[Path], takes: Sequence[Take], metadata: Metadata) -> None:
        clips, captions = [take.joints for take in takes], [take.caption for take in takes]
        suffix = files[0].suffix.lower()
        if suffix in SHEETS:
            save_page(files[0], sheet(clips, captions), metadata)
        elif suffix in FILMS:
            write_film(files[0], clips[:FILMED], HUMAN.fps, captions[:FILMED])
        else:
            for name, take in zip(files, takes, strict=True):
                write(name, take)

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        if path.suffix.lower() in SHEETS:
            return None  # a PNG's settings are the same for every modality, and pictures read them
        return super().read_metadata(path)
