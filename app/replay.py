"""`langevin replay`: make a file again from the settings in it, and say whether it is the same."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.edit import opened_for
from app.options import parse
from core.flags import IN_MEMORY, option, restored
from core.model import digest
from core.registry import modalities, modality_of, newest, open_model

ABOUT = """Read the settings in a file that `langevin sample` or `langevin edit` wrote, make it again and compare.

Example:
  langevin replay samples.png"""


@dataclass(frozen=True)
class Options:
    """What `langevin replay` takes."""

    checkpoint: Path | None = option(None, "the checkpoint, if it has moved since")
    out: Path | None = option(None, "where to write the new file (default: beside the old one, as NAME-replay)")


def main(words: Sequence[str]) -> None:
    """Make it again, write, compare."""
    known = [("file", "a file that `langevin sample` or `langevin edit` wrote")]
    options, given = parse(Options, "langevin replay", ABOUT, words, known)
    old = Path(given["file"])
    settings = settings_in(old)
    if IN_MEMORY in settings.values():
        raise ValueError(f"{old.name} was made with what lay in no file, so it cannot be made again")
    from core.settings import in_words, unchanged

    path = options.checkpoint or Path(str(settings["checkpoint"]))
    if not path.exists():
        raise ValueError(f"the checkpoint {path} is not there any more: say where it is with --checkpoint")
    if digest(path) != settings["sha256"]:
        raise ValueError(f"{path} is not the checkpoint that made {old.name}: its content differs")
    unchanged(settings, old)
    started = time.perf_counter()
    path = newest(path)
    modality = modality_of(path)
    new = options.out or old.with_name(f"{old.stem}-replay{old.suffix}")
    modality.check_output(new)
    if new.suffix.lower() != old.suffix.lower():
        raise ValueError(f"{new} cannot be compared with {old.name}: give a name that ends in {old.suffix}")
    if "edit" in settings:
        source = Path(settings["source"])
        unchanged({"files": {str(source): settings["source_sha256"]}}, old)
        operation = restored(modality.operations[settings["edit"]], settings)
        model = open_model(path, settings["average"], opened_for(modality, operation))
        objects = model.edit(operation, source)
    else:
        request = restored(modality.request, settings)
        model = open_model(path, settings["average"], request)
        objects = model.sample(request, seeds=settings.get("seeds"))
    if "item" in settings:
        objects = [objects[settings["item"]]]
    modality.write(new, objects, {k: v for k, v in settings.items() if k not in ("format", "file")})
    made = modality.files_of(new, len(objects))[settings.get("file", 0)]
    same = modality.same(old, made, settings)
    took = f"{time.perf_counter() - started:.1f} s"
    print(f"{made}: {'the same' if same else 'NOT the same'} as {old.name}, {took}, {in_words(settings)}")
    if not same:
        raise ValueError(f"{made} differs from {old}: the software or the machine is not the one that made it")


def settings_in(path: Path) -> dict[str, Any]:
    """The settings in a file's metadata, or beside it. Raises ValueError where there are none."""
    if not path.is_file():
        raise ValueError(f"{path} is no file: give one that `langevin sample` or `langevin edit` wrote")
    for modality in modalities().values():
        settings = modality.read_metadata(path)
        if settings is not None:
            break
    else:
        raise ValueError(f"{path} does not say how it was made: give a file that `langevin sample` wrote")
    if {"checkpoint", "sha256", "seed", "steps"} - settings.keys():
        raise ValueError(f"{path} does not say how it was made: give a file that `langevin sample` wrote")
    return settings
