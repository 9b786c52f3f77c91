"""`langevin inspect`: what a file or folder of weights is, from its header alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.options import parse

ABOUT = """Say what a file or a folder of weights is: architecture, layout, prediction, schedule, precision, size. Only
the header is read, and nothing is run.

Example:
  langevin inspect model.safetensors"""


@dataclass(frozen=True)
class Options:
    """`langevin inspect` has no options."""


def main(words: Sequence[str]) -> None:
    """Describe a file, a model's folder, a pipeline's folder or a run's folder."""
    known = [("what", "a .safetensors file, a folder of diffusers, or a run's folder")]
    _, given = parse(Options, "langevin inspect", ABOUT, words, known)
    from app.description import described

    for number, rows in enumerate(described(Path(given["what"]))):
        if number:
            print()
        for name, value in rows.items():
            if value:
                print(f"{name:12}  {value}")
