"""`langevin data`: what a folder or file of data is, before anything is trained on it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.options import parse
from core.console import reported
from core.flags import option
from core.registry import modalities

if TYPE_CHECKING:
    from core.data.survey import Survey
    from core.model import Modality

ABOUT = """Say what data are: how many, their sizes and lengths, captions and classes, what is in them twice, what is
broken, and what training would leave out and why. Nothing is changed.

Examples:
  langevin data pictures
  langevin data pictures --sheet sheet.png
  langevin data fashion.npz --json"""
SHOWN = 8  # lines of a list


@dataclass(frozen=True)
class Options:
    """What `langevin data` takes."""

    sheet: Path | None = option(None, "contact sheet to write: examples from all over the data", "FILE")
    count: int = option(64, "examples on the contact sheet")
    quick: bool = option(False, "read headers only: faster, but neither duplicates nor damaged files are found")
    json: bool = option(False, "print it as JSON, complete")


def main(words: Sequence[str]) -> None:
    """Survey the data, print what they are, and write a contact sheet if one is asked for."""
    options, given = parse(Options, "langevin data", ABOUT, words, [("path", "a folder, tar shards or an .npz file")])
    if options.count < 1:
        raise ValueError("--count must be at least 1")
    path = Path(given["path"])
    modality = modality_of_data(path)
    if options.sheet is not None and options.sheet.suffix.lower() != modality.preview_suffix:
        raise ValueError(f"{options.sheet} cannot be written: give a name that ends in {modality.preview_suffix}")
    with reported() as progress:
        survey = modality.survey(path, progress.track, not options.quick)
    print(json.dumps(as_json(modality, survey), indent=1) if options.json else "\n".join(lines(path, survey)))
    if options.sheet is not None:
        modality.preview(options.sheet, modality.examples(path, options.count), {"data": str(path)})
        print(options.sheet, file=sys.stderr if options.json else sys.stdout)


def modality_of_data(path: Path) -> Modality[Any]:
    """The modality that most of the files of some data are of. Raises ValueError where none knows them."""
    counts = {name: modality.count_data(path) for name, modality in modalities().items()}
    best = max(counts, key=lambda name: counts[name])
    if counts[best] == 0:
        if not path.exists():
            raise ValueError(f"{path} does not exist: give a folder, tar shards or an .npz file")
        raise ValueError(f"{path} holds nothing that is known here: give data of {', '.join(counts)}")
    return modalities()[best]


def as_json(modality: Modality[Any], survey: Survey) -> Mapping[str, object]:
    """A survey as JSON holds it: shapes and classes as lists."""
    plain = dataclasses.asdict(survey)
    plain["shapes"] = [{"shape": list(shape), "count": count} for shape, count in survey.shapes.items()]
    plain["left_out"] = [each._asdict() for each in survey.left_out]
    return {"modality": modality.name, **plain}


def lines(path: Path, survey: Survey) -> Iterator[str]:
    """A survey in words."""
    yield f"{path}: {survey.count:,} {survey.kind}"
    shapes = sorted(survey.shapes.items(), key=lambda pair: -pair[1])
    shown = [f"{'x'.join(map(str, shape))} ({count:,})" for shape, count in shapes[:SHOWN]]
    if shapes:
        yield row("shapes", shown, len(shapes))
    if survey.classes:
        named = [f"{name} ({count:,})" for name, count in zip(survey.classes, survey.members)]
        yield row("classes", [f"{len(named)}: {named[0]}", *named[1 : 2 * SHOWN]], len(named))
    if survey.captioned:
        yield row("captions", [f"{survey.captioned:,}, of which {survey.captions:,} differ"])
    if survey.numbers:
        yield row("numbers", survey.numbers)
    if survey.test:
        yield row("test split", [f"{survey.test:,} that are never trained on"])
    elif survey.groups:
        yield row("groups", [f"{survey.groups:,} that are kept on one side of a split"])
    if survey.duplicates:
        count = sum(len(names) - 1 for names in survey.duplicates)
        same = " and ".join(name.removeprefix(f"{path}/") for name in survey.duplicates[0][:2])
        yield row("twice", [f"{count:,} that are in the data before, such as {same}"])
    for note in survey.notes:
        yield row("note", [note])
    if survey.left_out:
        does = "leaves out" if survey.count >= 3 * len(survey.left_out) else "refuses, because they are many"
        yield row("left out", [f"{len(survey.left_out):,}, which training {does}:"])
        yield from (f"  {each.why}" for each in survey.left_out[:SHOWN])
        if len(survey.left_out) > SHOWN:
            yield f"  and {len(survey.left_out) - SHOWN:,} more: --json lists all"


def row(name: str, values: Sequence[str], total: int = 0) -> str:
    """A line of the report; ``total`` values where not all are shown."""
    more = f", and {total - len(values)} more" if total > len(values) else ""
    return f"{name:10}  {', '.join(values)}{more}"
