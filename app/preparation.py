"""`langevin prepare`: a person's files once, ahead of training: decoded, resized, cleaned up, in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from app.data import SHOWN, modality_of_data
from app.options import Flag, flags_of, read
from core.console import reported
from core.files import whole
from core.registry import preparations

ABOUT = """Prepare data for training: pictures are decoded, put upright and resized, motions become features. The folder
that is written is data itself: `langevin train RECIPE --data OUT`. A command that was stopped goes on where it was.

Examples:
  langevin prepare photographs prepared --size 256
  langevin prepare "shards/{000..011}.tar" prepared --size 512 --channels 1"""
POSITIONAL = [("path", "the data: a folder or tar shards"), ("out", "the folder to write")]


def main(words: Sequence[str]) -> None:
    """Prepare the data, say what was left out."""
    given = read("langevin prepare", ABOUT, POSITIONAL, all_flags(), words)
    source, out = Path(given["path"]), Path(given["out"])
    modality = modality_of_data(source)
    if modality.preparation is None:
        raise ValueError(f"data of the modality {modality.name} need no preparation: train on {source}")
    flags = flags_of(modality.preparation)
    values = read("langevin prepare", ABOUT, POSITIONAL, flags, words)
    preparation = modality.preparation(**{flag.name: values[flag.name] for flag in flags})
    with reported() as progress:
        left_out = preparation.run(source, out, progress.track)
    for each in left_out[:SHOWN]:
        print(f"left out: {each.why}")
    if len(left_out) > SHOWN:
        print(f"and {len(left_out) - SHOWN:,} more: {out}/left_out.json has all")
    if out.is_dir():
        with whole(out / "left_out.json") as draft:
            draft.write_text(json.dumps([each._asdict() for each in left_out], indent=1) + "\n")
    print(f"{out}\nNext: langevin data {out}")


def all_flags() -> list[Flag]:
    """The flags of every modality's preparation, each under whose it is."""
    found: dict[str, Flag] = {}
    for domain, preparation in preparations().items():
        for flag in flags_of(preparation):
            found.setdefault(flag.name, flag._replace(group=f"for data of the modality {domain}"))
    return list(found.values())
