"""Motions as the commands know them."""

from __future__ import annotations

from dataclasses import dataclass

from motion.clips import Clips
from motion.operations import OPERATIONS
from motion.request import REQUEST


@dataclass(frozen=True)
class MotionModality(Clips):
    """Clips, what is asked for them, and the edits they have."""

    request = REQUEST
    operations = OPERATIONS


MODALITY = MotionModality()
