"""The Python front door: open a model, sample it, edit with it, score data, train a recipe.

    import langevin

    model = langevin.open("runs/ldm")                   # or the folder of a published pipeline
    model.sample("a red 7", count=4, steps=20).save("sevens.png")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langevin.api import Model, Samples, open, train, wrap  # noqa: A004

__version__ = "0.2.0"
__all__ = ["Model", "Samples", "open", "train", "wrap"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"langevin has no '{name}': it has {', '.join(__all__)}")
    return getattr(importlib.import_module("langevin.api"), name)
