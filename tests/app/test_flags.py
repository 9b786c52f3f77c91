"""What scripts of others are written with is frozen: commands, their flags, and the parameters of recipes.

``tests/files/flags.txt`` has a line for each. A new flag is a new line: run ``python -m tests.app.test_flags``. A line
that goes or changes breaks somebody's script: it needs a note in CHANGELOG.md, and one minor version in which the old
name still works and warns.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

from app.main import COMMANDS
from app.options import Flag, flags_of
from core.registry import operations, preparations, presets, requests, systems
from tests.support.source import ROOT

FILE = ROOT / "tests" / "files" / "flags.txt"


def flags() -> Iterator[str]:
    for command, (module, _) in COMMANDS.items():
        yield command
        names = vars(importlib.import_module(module))
        shared = [value for value in names.values() if isinstance(value, Flag)]
        own = flags_of(names["Options"]) if "Options" in names else []
        yield from (f"{command} --{flag.name}" for flag in [*shared, *own])
    for domain, request in requests().items():
        yield from (f"sample {domain} --{flag.name}" for flag in flags_of(request))
    for domain, preparation in preparations().items():
        yield from (f"prepare {domain} --{flag.name}" for flag in flags_of(preparation))
    for domain, table in operations().items():
        for name, kind in table.items():
            yield f"edit {name} ({domain})"
            yield from (f"edit {name} --{flag.name}" for flag in flags_of(kind))
    for system, outline in systems().items():
        for preset, function in presets(importlib.import_module(outline.module)).items():
            yield f"train {system} --preset {preset}"
            yield from (f"train {system} --preset {preset} --{name}" for name in inspect.signature(function).parameters)


def test_flags_are_frozen() -> None:
    now, then = set(flags()), set(FILE.read_text().splitlines())
    assert not then - now, f"gone, which breaks scripts: {sorted(then - now)}"
    assert not now - then, f"new: run `python -m tests.app.test_flags` to freeze {sorted(now - then)}"


if __name__ == "__main__":
    FILE.write_text("\n".join(sorted(set(flags()))) + "\n")
