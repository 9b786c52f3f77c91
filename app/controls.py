"""The control picture of a ControlNet: ``--control map.png`` as it is, ``--edges photo.png`` by its edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from core.recipe import Recipe


def control_of(recipe: Recipe, prompt: str | None, control: str | None, edges: str | None) -> Mapping[str, Tensor]:
    """What all samples follow (1, ...), by name; nothing where the recipe asks by itself.

    Raises ValueError for a model that takes no control picture, and where one is missing, given twice or unreadable.
    """
    if control is None and edges is None:
        if recipe.control is not None and prompt is not None:
            raise ValueError("this model follows a picture: name a photo with --edges, or a map with --control")
        return {}
    if recipe.control is None:
        raise ValueError(f"{recipe.name} takes no control picture: leave --control and --edges out")
    if control is not None and edges is not None:
        raise ValueError("--control is a control picture and --edges makes one: give one of them")
    return recipe.control(Path(control or edges or ""), control is not None)


def told_control(control: str | None, edges: str | None) -> dict[str, object]:
    """What belongs into the settings of samples that follow a picture."""
    from app.sampling import digest

    named = control or edges
    return {"control": control, "edges": edges, "control_sha256": digest(Path(named))} if named else {}
