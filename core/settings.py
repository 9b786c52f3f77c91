"""The settings that made a file: written into it, read from it by ``langevin replay``, shown in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.flags import IN_MEMORY, record
from core.grid import GRIDS
from core.model import Model, Operation, Request, SamplingFlags, digest
from core.sample import SAMPLERS
from core.systems.sampling import Sampling


def settings_of(model: Model, asked: Request | Operation) -> dict[str, Any]:
    """Everything that makes the same samples again; of a model that lies in no file, without its place."""
    place = {} if model.path is None else {"checkpoint": str(model.path), "sha256": digest(model.path)}
    return {
        **place,
        "modality": model.modality.name,
        "average": model.average,
        **record(asked),
        **sampling_of(model, asked),
        "files": {str(path): digest(path) for path in asked.files()},
    }


def sampling_of(model: Model, asked: SamplingFlags) -> dict[str, Any]:
    """The sampling in words, as far as its parts have names; a part without one is the model's own."""
    sampling: Sampling = asked.sampling(model.sampling)
    samplers = {name: info.sampler for name, info in SAMPLERS.items()}
    return {
        "sampler": IN_MEMORY if callable(asked.sampler) else _name(sampling.sampler, samplers),
        "grid": IN_MEMORY if callable(asked.grid) else _name(sampling.grid, GRIDS),
        "steps": sampling.steps,
        "guidance": sampling.guidance,
    }


def in_words(settings: Mapping[str, Any]) -> str:
    """The settings a person wants to read."""
    sampler = settings["sampler"] or "the model's sampler"
    grid = settings["grid"] or "the model's grid"
    guidance = settings["guidance"]
    guided = "" if math.isclose(guidance, 1) else f", guidance {guidance:g}"
    return f"{sampler} on {grid}, {settings['steps']} steps{guided}, seed {settings['seed']}"


def unchanged(settings: Mapping[str, Any], made: Path) -> None:
    """Raises ValueError where a file that the settings name is gone or differs from what made ``made``."""
    for name, was in settings.get("files", {}).items():
        if not Path(name).exists():
            raise ValueError(f"{name}, which {made.name} was made with, is not there any more")
        if digest(Path(name)) != was:
            raise ValueError(f"{name} is not what {made.name} was made with: its content differs")


def _name(value: object, table: Mapping[str, Any]) -> str | None:
    return next((name for name, entry in table.items() if entry is value), None)
