"""Flags: dataclass fields with a help text. One dataclass is a command's flags, keywords in Python and a record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def option(default: Any, about: str, metavar: str | None = None) -> Any:
    """A dataclass field that is a flag; ``about`` is its help, with the unit where there is one."""
    return dataclasses.field(default=default, metadata={"help": about, "metavar": metavar})


def record(values: Any) -> dict[str, Any]:
    """A dataclass of flags as JSON keeps it: paths as words; objects that lie in no file are only listed as present."""
    return {field.name: _plain(getattr(values, field.name)) for field in dataclasses.fields(values)}


def restored(kind: type[T], stored: Mapping[str, Any]) -> T:
    """The dataclass of flags that ``record`` made ``stored`` of; what it does not name is left at its default."""
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    chosen = {name: value for name, value in stored.items() if name in known}
    return kind(**{name: _typed(known[name].type, value) for name, value in chosen.items()})


# What a record has in the place of an object that lies in no file. A table, which no flag can be, unlike a word.
IN_MEMORY = {"in_memory": True}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str | int | float | None | tuple | list):
        return IN_MEMORY
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _typed(kind: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and "Path" in str(kind) else value
