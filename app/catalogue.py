"""`langevin list`: the recipes, found where they lie; nothing registers them.

Every function of a module ``<domain>/recipes/<system>.py`` that returns a ``Recipe`` is a preset of that system.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from types import ModuleType

from core.names import look_up
from core.recipe import domains


def systems() -> dict[str, str]:
    """System name -> module. A name that two domains share is given with its domain, as ``image.ddpm``."""
    found: dict[str, str] = {}
    for domain in domains():
        package = importlib.import_module(f"{domain}.recipes")
        for module in pkgutil.iter_modules(package.__path__):
            found[f"{domain}.{module.name}"] = f"{domain}.recipes.{module.name}"
    names = [dotted.split(".")[1] for dotted in found]
    return {
        (dotted if names.count(dotted.split(".")[1]) > 1 else dotted.split(".")[1]): module
        for dotted, module in found.items()
    }


def presets(module: ModuleType) -> dict[str, Callable[..., object]]:
    """The preset functions of a recipe module, by name."""
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and inspect.signature(function).return_annotation == "Recipe"
        and not name.startswith("_")
    }


def find(system: str, preset: str) -> tuple[str, Callable[..., object]]:
    """The dotted name and the function of a system's preset; raises UnknownNameError with the nearest name."""
    table = systems()
    short = {dotted.split(".")[-1]: module for dotted, module in table.items()}
    module = importlib.import_module(look_up("recipe", system, table | short, "langevin list"))
    function = look_up(f"preset of {system}", preset, presets(module), f"langevin info {system}")
    return f"{module.__name__}.{function.__name__}", function


def main(arguments: Sequence[str]) -> None:
    """Print every system with the first sentence of its module and its presets."""
    if arguments and arguments[0] in ("-h", "--help"):
        print("usage: langevin list\n\nShow every recipe: name, presets, what it is.\n\nExample:\n  langevin list")
        return
    if arguments:
        raise ValueError(f"`langevin list` takes no arguments, but got '{arguments[0]}'")
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "presets", "what it is", box=None, pad_edge=False, header_style="bold")
    for name, path in systems().items():
        module = importlib.import_module(path)
        first = (module.__doc__ or "").strip().split("\n")[0]
        table.add_row(name, " ".join(sorted(presets(module))), first)
    Console().print(table)
