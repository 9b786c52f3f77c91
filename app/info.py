"""`langevin info`: what a recipe is and takes, or what a checkpoint holds."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.catalogue import presets, systems
from core.names import look_up
from app.options import parse
from app.sampling import newest
from core.recipe import load

ABOUT = """Show what a recipe is, its presets and their options; or what a checkpoint holds.

Examples:
  langevin info edm
  langevin info runs/edm-tiny"""


@dataclass(frozen=True)
class Options:
    """`langevin info` has no options."""


def main(words: Sequence[str]) -> None:
    """Describe a recipe by its name, or a file by its path."""
    known = [("what", "a recipe's name, a .safetensors file or a run's folder")]
    _, given = parse(Options, "langevin info", ABOUT, words, known)
    what = given["what"]
    if Path(what).exists() or what.endswith(".safetensors") or "/" in what:
        describe_checkpoint(newest(Path(what)))
    else:
        describe_recipe(what)


def describe_recipe(name: str) -> None:
    """Its text, and each preset with its signature and first sentence."""
    module = importlib.import_module(look_up("recipe", name, systems(), "langevin list"))
    print(inspect.cleandoc(module.__doc__ or ""))
    for preset, function in presets(module).items():
        signature = ", ".join(str(p).replace("'", "") for p in inspect.signature(function).parameters.values())
        print(f"\n--preset {preset}  ({signature or 'no options'})")
        print("  " + inspect.cleandoc(function.__doc__ or "").split("\n")[0])


def describe_checkpoint(path: Path) -> None:
    """Recipe, arguments, step, averages and size."""
    loaded = load(path)
    parameters = sum(value.numel() for value in loaded.system.parameters())
    denoiser = loaded.system.denoiser
    rows = {
        "file": str(path),
        "recipe": loaded.recipe.name,
        "arguments": ", ".join(f"{name}={value}" for name, value in loaded.recipe.arguments.items()) or "none",
        "step": loaded.metadata.get("step"),
        "averages": ", ".join(loaded.metadata["averages"]) or "none",
        "parameters": f"{parameters:,}",
        "network": type(denoiser.net).__name__,
        "schedule": type(denoiser.schedule).__name__,
        "prediction": type(denoiser.prediction).__name__,
        "sample shape": "x".join(map(str, loaded.recipe.shape)),
    }
    for name, value in rows.items():
        print(f"{name:12}  {value}")
