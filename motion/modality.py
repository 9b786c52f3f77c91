"""Motions as the commands know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.survey import Survey, Track, plainly
from motion.clips import Clips
from motion.operations import OPERATIONS
from motion.prepare import PREPARATION
from motion.request import REQUEST
from motion.take import Take


@dataclass(frozen=True)
class MotionModality(Clips):
    """Clips, what is asked for them, and the edits they have."""

    request = REQUEST
    operations = OPERATIONS
    preparation = PREPARATION

    def count_data(self, path: Path) -> int:
        from motion.surveying import count_motions

        return count_motions(path)

    def survey(self, path: Path, track: Track = plainly, thorough: bool = True) -> Survey:
        from motion.surveying import survey

        return survey(path, track, thorough)

    def examples(self, path: Path, count: int) -> list[Take]:
        from motion.surveying import examples

        return examples(path, count)

    def own_arguments(self, data: Path) -> Mapping[str, Any]:
        from motion.windows import own_arguments

        return own_arguments(data)


MODALITY = MotionModality()
