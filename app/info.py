"""`langevin info`: what a recipe is and takes, or what a checkpoint holds."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.options import parse
from core.names import look_up
from core.registry import newest, presets, systems

if TYPE_CHECKING:
    from core.systems.system import System

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
    module = importlib.import_module(look_up("recipe", name, systems(), "langevin list").module)
    print(inspect.cleandoc(module.__doc__ or ""))
    for preset, function in presets(module).items():
        signature = ", ".join(str(p).replace("'", "") for p in inspect.signature(function).parameters.values())
        print(f"\n--preset {preset}  ({signature or 'no options'})")
        print("  " + inspect.cleandoc(function.__doc__ or "").split("\n")[0])


def describe_checkpoint(path: Path) -> None:
    """Recipe, arguments, step, averages and size."""
    from core.recipe import load

    model = load(path)
    rows = {
        "file": str(path),
        "recipe": model.name,
        "modality": model.modality.name,
        "arguments": ", ".join(f"{name}={value}" for name, value in model.metadata["arguments"].items()) or "none",
        "step": model.metadata.get("step"),
        **({"fine-tuned": f"from {source}"} if (source := model.metadata.get("source")) else {}),
        "averages": ", ".join(model.metadata["averages"]) or "none",
        "parameters": f"{sum(value.numel() for value in model.system.parameters()):,}",
        **parts_of(model.system),
        "sample shape": "x".join(map(str, model.shape)),
    }
    for name, value in rows.items():
        print(f"{name:12}  {value}")


def parts_of(system: System) -> dict[str, str]:
    """What a system is made of."""
    from core.systems.diffusion import Diffusion

    if not isinstance(system, Diffusion):
        return {"system": type(system).__name__}
    denoiser = system.denoiser
    return {
        "network": type(denoiser.net).__name__,
        "schedule": type(denoiser.schedule).__name__,
        "prediction": type(denoiser.prediction).__name__,
    }
