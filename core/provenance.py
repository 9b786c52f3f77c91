"""Provenance: the settings that made a file, in its metadata, as JSON with the number of their format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.files import whole

KEY = "langevin"  # under which a file's metadata hold the settings
FORMAT = 2  # of the settings that are written; those without a number are of format 0


@dataclass(frozen=True)
class KeyAlias:
    """A setting was renamed: its key before and since, and the first format with the new one."""

    since: int
    old: str
    new: str


ALIASES: tuple[KeyAlias, ...] = (KeyAlias(2, "avoid", "negative_prompt"),)


def dumps(settings: Mapping[str, object]) -> str:
    """Settings as they stand in a file."""
    return json.dumps({**settings, "format": FORMAT}, sort_keys=True, default=str)


def loads(text: str, path: Path) -> dict[str, object]:
    """The settings in the file at ``path`` by their keys of today; "format" is the file's.

    Raises ValueError, in one sentence, for what is damaged or of a newer format.
    """
    try:
        stored = json.loads(text)
        written = int(stored.get("format", 0))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"the settings in {path} are damaged: it does not say how it was made") from error
    if written > FORMAT:
        raise ValueError(
            f"the settings in {path} are of format {written}, and this version of Langevin reads formats up to "
            f"{FORMAT}: install a newer one"
        )
    for alias in sorted(ALIASES, key=lambda alias: alias.since):
        if alias.since > written and alias.old in stored:
            stored[alias.new] = stored.pop(alias.old)
    return {**stored, "format": written}


def write_sidecar(path: Path, settings: Mapping[str, object]) -> None:
    """Write the settings of a file that has no room for them beside it, as NAME.json, whole or not at all."""
    with whole(sidecar(path)) as draft:
        draft.write_text(dumps(settings))


def read_sidecar(path: Path) -> dict[str, object] | None:
    """The settings beside a file; None where there are none."""
    return loads(sidecar(path).read_text(), path) if sidecar(path).is_file() else None


def sidecar(path: Path) -> Path:
    """Where the settings of a file lie that has no room for them."""
    return path.with_name(f"{path.name}.json")
