"""`langevin list`: the recipes, found where they lie; nothing registers them."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from core.registry import systems

NARROWEST = 60  # columns that the list is fitted to at least


def main(arguments: Sequence[str]) -> None:
    """Print every system with its presets and the first sentence of its module."""
    if arguments and arguments[0] in ("-h", "--help"):
        print("usage: langevin list\n\nShow every recipe: name, presets, what it is.\n\nExample:\n  langevin list")
        return
    if arguments:
        raise ValueError(f"`langevin list` takes no arguments, but got '{arguments[0]}'")
    print(table(max(NARROWEST, shutil.get_terminal_size().columns)))


def table(width: int) -> str:
    """A paragraph for each recipe: its name and presets, and what it is, filled to ``width`` columns."""
    lines = []
    for name, outline in systems().items():
        lines += textwrap.wrap(
            " ".join(outline.presets), width, initial_indent=f"{name:18} ", subsequent_indent=" " * 19
        )
        lines += textwrap.wrap(outline.about, width, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return "\n".join(lines)
