"""What `langevin prepare` does: a person's files once, ahead of training, so that each run need not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.data.survey import LeftOut, Track


@dataclass(frozen=True)
class Preparation(ABC):
    """Its fields are the flags of ``langevin prepare`` for one domain."""

    @abstractmethod
    def run(self, source: Path, out: Path, track: Track) -> Sequence[LeftOut]:
        """Write what ``source`` holds to the folder ``out``, and return what had to be left out.

        A run that was stopped goes on where it was. Raises DataError where nothing can be used, or where ``out`` was
        prepared from something else.
        """
