"""A published pipeline's folder: ``model_index.json`` names its class and its parts, each a folder next to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

INDEX = "model_index.json"


@dataclass(frozen=True)
class PipelineFolder:
    """The index of a pipeline."""

    path: Path
    index: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the index. Raises ValueError where there is none, or it cannot be read."""
        return cls(path, _read(path / INDEX, f"{path} is no pipeline"))

    @property
    def name(self) -> str:
        """The class of the pipeline, as diffusers calls it."""
        return str(self.index.get("_class_name"))

    def has(self, part: str) -> bool:
        """Whether the index names a part; one that was left out stands there as null."""
        stated = self.index.get(part)
        return isinstance(stated, list) and stated[0] is not None

    def part(self, name: str) -> Path:
        """The folder of a part. Raises ValueError where it is missing."""
        if not self.has(name) or not (self.path / name).is_dir():
            raise ValueError(f"{self.path} has no {name}, which a {self.name} needs: fetch the whole pipeline")
        return self.path / name

    def scheduler(self) -> dict[str, Any]:
        """The configuration of the scheduler. Raises ValueError where it is missing."""
        return _read(self.part("scheduler") / "scheduler_config.json", f"{self.path} has no scheduler")


def _read(path: Path, trouble: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{trouble}: it holds no readable {path.name}; fetch the whole pipeline again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{trouble}: its {path.name} is no table of names; fetch the whole pipeline again")
    return found
