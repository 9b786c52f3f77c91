"""Motions as the commands know them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.data.preparation import Preparation
from core.data.survey import LeftOut, Survey, Track, plainly
from motion.clips import Clips
from motion.operations import OPERATIONS
from motion.request import REQUEST
from motion.take import Take


@dataclass(frozen=True)
class MotionPreparation(Preparation):
    """Recordings of any skeleton to features at 20 frames a second, split into training and held-out rows."""

    def run(self, source: Path, out: Path, track: Track) -> Sequence[LeftOut]:
        from motion.preparation import prepare

        return prepare(source, out, track).left_out


@dataclass(frozen=True)
class MotionModality(Clips):
    """Clips, what is asked for them, and the edits they have."""

    request = REQUEST
    operations = OPERATIONS
    preparation = MotionPreparation

    def count_data(self, path: Path) -> int:
        from motion.surveying import count_motions

        return count_motions(path)

    def survey(self, path: Path, track: Track = plainly, thorough: bool = True) -> Survey:
        from motion.surveying import survey

        return survey(path, track, thorough)

    def examples(self, path: Path, count: int) -> list[Take]:
        from motion.surveying import examples

        return examples(path, count)


MODALITY = MotionModality()
