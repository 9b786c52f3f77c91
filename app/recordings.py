"""Edits of recordings, such as motions: what goes on in time is changed by the recipe that made the model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from app.edits import Options
from app.sampling import finished
from core.random import SamplingRNG
from core.recipe import Change, Loaded, Sampling

OF_PICTURES = (
    *("avoid", "strength", "mask", "repaint", "invert", "shows"),
    *("restore", "method", "blur", "factor", "noise", "pull", "size"),
)
OF_RECORDINGS = ("keep", "part", "seconds")


def refuse(options: Options, names: Sequence[str], why: str) -> None:
    """Raises ValueError if an option of these names was given."""
    for field in dataclasses.fields(options):
        if field.name in names and getattr(options, field.name) != field.default:
            raise ValueError(f"--{field.name} is of {why}: leave it out")


def revised(loaded: Loaded, options: Options, file: Path) -> tuple[Tensor, Sampling]:
    """A recording changed as the options say, once for each result, and the way it was sampled."""
    revise = loaded.recipe.revise
    assert revise is not None
    if not file.is_file():
        raise ValueError(f"{file} is no file: give a recording")
    way = options.sampling(loaded.recipe)
    change = Change(options.prompt or "", spans(options.keep), options.part, options.seconds)
    noise = SamplingRNG(options.seed, range(options.first, options.first + options.count))
    with torch.no_grad():
        return finished(loaded.system, revise(loaded.system, file, change, noise, way)), way


def spans(typed: str | None) -> tuple[tuple[int, int | None], ...] | None:
    """ "0:20,60:" as ((0, 20), (60, None)). Raises ValueError for what is no list of spans."""
    if typed is None:
        return None
    found = [re.fullmatch(r"\s*(\d*):(\d*)\s*", word) for word in typed.split(",")]
    if not all(found):
        raise ValueError(f"'{typed}' does not say which frames stay: write 0:20,60:80 for the first 20 and 60 to 79")
    return tuple((int(match[1] or 0), int(match[2]) if match[2] else None) for match in found if match)
