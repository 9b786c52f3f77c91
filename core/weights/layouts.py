"""Layouts that a domain adds to those of core, found in the packages beside core when they are needed.

A domain's module ``<domain>/published/layouts`` (a file or a package) may have a table ``LAYOUTS`` of ``Layout``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Layout:
    """One network in one layout: how its files are recognised, and what they hold."""

    kind: str
    layout: str  # "diffusers", "original", ...
    sign: str  # a pattern of a tensor's whole name, which only this network has
    model: str
    prediction: str = ""
    schedule: str = ""
    load: Callable[[Path], object] | None = None  # reads a folder, and raises CheckpointError where it does not fit

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a tensor's name is this layout's sign."""
        return any(re.fullmatch(self.sign, name) for name in tensors)


@cache
def of_domains() -> tuple[Layout, ...]:
    """The layouts of all domains. Raises TypeError for a table that holds anything else."""
    files = [*ROOT.glob("*/published/layouts.py"), *ROOT.glob("*/published/layouts/__init__.py")]
    found: list[Layout] = []
    for domain in sorted({file.relative_to(ROOT).parts[0] for file in files}):
        table: Iterable[object] = importlib.import_module(f"{domain}.published.layouts").LAYOUTS
        for layout in table:
            if not isinstance(layout, Layout):
                raise TypeError(f"LAYOUTS of {domain}.published.layouts holds {layout!r}, which is no Layout")
            found.append(layout)
    return tuple(found)
