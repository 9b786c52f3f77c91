"""when the water is high and low in a file of tides"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def main(words: Sequence[str]) -> None:
    """Print the hours of high and low water."""
    from tides.modality import MODALITY

    if len(words) != 1:
        raise ValueError("langevin tide-table takes one file of tides")
    tide = MODALITY.read(Path(words[0]))
    high, low = tide.heights.index(max(tide.heights)), tide.heights.index(min(tide.heights))
    print(f"{tide.harbour}: high water at {high}:00, low water at {low}:00")
