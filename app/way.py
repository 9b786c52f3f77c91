"""How to sample, as typed on the command line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.names import look_up
from app.options import option
from core.grid import GRIDS
from core.recipe import Recipe, Sampling
from core.sample import ALIASES, SAMPLERS


@dataclass(frozen=True)
class Way:
    """How to sample; what is left out is the recipe's own choice."""

    sampler: str | None = option(
        None, "a sampler of `langevin solvers --list`; diffusers' and ComfyUI's names work too"
    )
    grid: str | None = option(None, f"the times it visits: {', '.join(GRIDS)}")
    steps: int | None = option(None, "how many steps it takes")
    guidance: float | None = option(None, "guidance scale; 1 is none")
    seed: int = option(0, "sample i of a seed is always the same")

    def sampling(self, recipe: Recipe) -> Sampling:
        """The recipe's sampling with these choices in place. Raises ValueError, the nearest name offered."""
        chosen = recipe.sampling
        if self.sampler is not None:
            name, grid = find_sampler(self.sampler)
            chosen = dataclasses.replace(chosen, sampler=SAMPLERS[name].sampler)
            if grid is not None and self.grid is None:
                chosen = dataclasses.replace(chosen, grid=GRIDS[grid])
        if self.grid is not None:
            chosen = dataclasses.replace(chosen, grid=look_up("grid", self.grid, GRIDS, "langevin sample --help"))
        if self.steps is not None:
            chosen = dataclasses.replace(chosen, steps=self.steps)
        if self.guidance is not None:
            if not math.isfinite(self.guidance):
                raise ValueError(f"the guidance scale must be a finite number, not {self.guidance}")
            chosen = dataclasses.replace(chosen, guidance=self.guidance)
        return chosen


def find_sampler(name: str) -> tuple[str, str | None]:
    """Our name of a sampler, and the grid that a foreign name implies."""
    table = {own: (own, None) for own in SAMPLERS} | {k: v for k, v in ALIASES.items() if k not in SAMPLERS}
    return look_up("sampler", name, table, "langevin solvers --list")


def describe(sampling: Sampling) -> dict[str, object]:
    """A sampling in words, as far as its parts have names."""
    return {
        "sampler": _name(sampling.sampler, {name: info.sampler for name, info in SAMPLERS.items()}),
        "grid": _name(sampling.grid, GRIDS),
        "steps": sampling.steps,
        "guidance": sampling.guidance,
    }


def _name(value: object, table: Mapping[str, Any]) -> str | None:
    return next((name for name, entry in table.items() if entry is value), None)
