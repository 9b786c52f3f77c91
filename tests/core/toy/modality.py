"""Points in the plane as a modality: text files, a point a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from core.model import Metadata, Modality
from core.prompts import Conditions


def in_silence(path: Path, objects: Sequence[Tensor], metadata: Metadata) -> None:
    """Write nothing."""


@dataclass(frozen=True)
class PointModality(Modality[Tensor]):
    """watch: called with all that is previewed, in the place of a file."""

    watch: Callable[[Path, Sequence[Tensor], Metadata], None] = in_silence

    name = "points"
    suffixes = (".txt",)

    def decode(self, data: Tensor, conditions: Conditions) -> Sequence[Tensor]:
        return list(data)

    def write(self, path: Path, objects: Sequence[Tensor], metadata: Metadata) -> None:
        self.watch(path, objects, metadata)
