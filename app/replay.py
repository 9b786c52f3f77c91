"""`langevin replay`: make the same picture again from its own metadata, and say whether it is the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from app.loras import weighed
from app.options import option, parse
from app.sampling import Drawing, digest, drawn, newest, opened, words_of
from core.provenance import FORMAT

ABOUT = """Read the settings in a picture that `langevin sample` wrote, draw it again and compare.

Example:
  langevin replay samples.png"""


@dataclass(frozen=True)
class Replay:
    """What `langevin replay` takes."""

    checkpoint: Path | None = option(None, "the checkpoint, if it has moved since")
    out: Path | None = option(None, "where to write the new picture (default: beside the old one, as NAME-replay)")


def main(words: Sequence[str]) -> None:
    """Draw again, write, compare."""
    options, given = parse(
        Replay, "langevin replay", ABOUT, words, [("picture", "a file that `langevin sample` wrote")]
    )
    old = Path(given["picture"])
    settings = settings_in(old)
    path = options.checkpoint or Path(str(settings["checkpoint"]))
    if not path.exists():
        raise ValueError(f"the checkpoint {path} is not there any more: say where it is with --checkpoint")
    if digest(path) != settings["sha256"]:
        raise ValueError(f"{path} is not the checkpoint that made {old.name}: its content differs")
    if settings.get("refiner") and digest(newest(Path(settings["refiner"]))) != settings["refiner_sha256"]:
        raise ValueError(f"{settings['refiner']} is not the refiner that ended {old.name}: its content differs")
    leader = settings.get("controlnet")
    if leader and digest(weighed(leader)[0]) != settings["controlnet_sha256"]:
        raise ValueError(f"{leader} is not the ControlNet that led {old.name}: its content differs")
    followed = settings.get("control") or settings.get("edges")
    if followed and digest(Path(followed)) != settings["control_sha256"]:
        raise ValueError(f"{followed} is not the picture that {old.name} follows: its content differs")
    loaded = opened(path, settings["average"], settings.get("size"))
    way = Drawing(**{field.name: settings[field.name] for field in fields(Drawing) if field.name in settings})
    samples, seconds = drawn(loaded, way, way.sampling(loaded.recipe))
    new = options.out or old.with_name(f"{old.stem}-replay{old.suffix}")
    if loaded.recipe.show is None:
        raise ValueError(f"the recipe {loaded.recipe.name} does not say how its samples are written")
    loaded.recipe.show(new, samples, settings)
    same = new.read_bytes() == old.read_bytes()
    if settings["format"] < FORMAT:  # the same picture is written with its settings in today's format
        from core.media.sheet import same_pixels

        same = same_pixels(new, old)
    print(f"{new}: {'the same picture' if same else 'NOT the same picture'}, {seconds:.1f} s, {words_of(settings)}")
    if not same:
        raise ValueError(f"{new} differs from {old}: the software or the machine is not the one that made it")


def settings_in(path: Path) -> dict[str, Any]:
    """The settings in a picture's metadata."""
    from core.media.sheet import read_settings

    settings = read_settings(path)
    if "edit" in settings:
        raise ValueError(f"{path} is an edit: give `langevin edit` the picture and the settings once more")
    missing = {"checkpoint", "sha256", "seed", "steps"} - settings.keys()
    if missing:
        raise ValueError(f"{path} does not say how it was made: give a picture that `langevin sample` wrote")
    return settings
