"""What `langevin prepare` does with motions: recordings of any skeleton become features, split and with statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.data.preparation import Preparation
from core.data.survey import LeftOut, Track


@dataclass(frozen=True)
class MotionPreparation(Preparation):
    """Features at 20 frames a second; there is nothing to choose."""

    def run(self, source: Path, out: Path, track: Track) -> Sequence[LeftOut]:
        """Features, their index and statistics; what is prepared already is not prepared again."""
        from motion.preparation import prepare

        return prepare(source, out, track).left_out


PREPARATION = MotionPreparation
