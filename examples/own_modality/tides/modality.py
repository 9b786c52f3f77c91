"""Tides as the commands know them: text files, a harbour and its 24 heights a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core import provenance
from core.model import Metadata, Modality
from core.prompts import Conditions
from core.weights.checkpoint import write_whole
from tides.operations import OPERATIONS
from tides.request import REQUEST

HOURS = 24


@dataclass(frozen=True)
class Tide:
    """A day at a harbour: metres above the mean, hour by hour."""

    harbour: str
    heights: tuple[float, ...]


class Tides(Modality[Tide]):
    """Files of days."""

    name = "tides"
    suffixes = (".csv",)
    request = REQUEST
    operations = OPERATIONS

    def decode(self, data: Tensor, conditions: Conditions) -> list[Tide]:
        rows = data.flatten(1).tolist()
        return [Tide(f"harbour {number}", tuple(round(v, 3) for v in row)) for number, row in enumerate(rows)]

    def encode(self, objects: Sequence[Tide]) -> Tensor:
        return torch.tensor([tide.heights for tide in objects])[:, None]

    def read(self, path: Path) -> Tide:
        try:
            harbour, *heights = path.read_text().splitlines()[0].split(",")
            return Tide(harbour, tuple(map(float, heights)))
        except (OSError, ValueError, IndexError) as error:
            raise ValueError(f"{path} holds no tide: a harbour and {HOURS} heights on its first line") from error

    def write(self, path: Path, objects: Sequence[Tide], metadata: Metadata) -> None:
        lines = [",".join([tide.harbour, *map(str, tide.heights)]) for tide in objects]
        write_whole(path, ("\n".join(lines) + "\n").encode())
        provenance.write_sidecar(path, metadata)


MODALITY = Tides()
