"""Aliases: how what a file of an older format calls recipes, arguments and tensors is called today.

A package (core, or one with recipes) lists what was renamed in it as ``ALIASES``: core below, another in its module
``aliases``. Each entry carries the first format that has the new name, and is applied to files of older formats. Names
of today are the targets, so an entry follows when its class or its recipe moves.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import nn

T = TypeVar("T", "RecipeAlias", "ArgumentAlias", "TensorAlias")


@runtime_checkable
class NamesLayers(Protocol):
    """A module in whose state another's layers are named, with "/" for ".", as in that of a LoRA."""

    def names_layers(self) -> tuple[str, nn.Module]:
        """The name under which those names follow, and the module whose layers they are."""


@dataclass(frozen=True)
class RecipeAlias:
    """A recipe was moved: its dotted name before and since."""

    since: int
    old: str
    new: str


@dataclass(frozen=True)
class ArgumentAlias:
    """An argument of a recipe was renamed, converted or, with an ``old`` name of "", added."""

    since: int
    recipe: str  # the dotted name of today
    old: str
    new: str
    convert: Callable[[Any], Any] | None = None  # the old value -> the new one; of an added argument, None -> its value


@dataclass(frozen=True)
class TensorAlias:
    """A submodule or parameter of a module was renamed, wherever such a module is part of a system."""

    since: int
    module: str  # the class that holds it, by the dotted name of today; classes derived from it are meant too
    old: str  # its name there, such as "say", or that of a part of a part, such as "net.0"
    new: str


@dataclass(frozen=True)
class Aliases:
    """All that was renamed."""

    recipes: tuple[RecipeAlias, ...] = ()
    arguments: tuple[ArgumentAlias, ...] = ()
    tensors: tuple[TensorAlias, ...] = ()

    def __add__(self, other: Aliases) -> Aliases:
        return Aliases(self.recipes + other.recipes, self.arguments + other.arguments, self.tensors + other.tensors)

    def recipe(self, name: str, written: int) -> str:
        """Today's name of what a file of format ``written`` calls a recipe."""
        for batch in _later(self.recipes, written):
            name = {alias.old: alias.new for alias in batch}.get(name, name)
        return name

    def adapt(self, recipe: str, arguments: Mapping[str, Any], written: int) -> dict[str, Any]:
        """Today's arguments of a recipe, by its name of today."""
        now = dict(arguments)
        for batch in _later(self.arguments, written):
            before, now = now, dict(now)
            mine = [alias for alias in batch if alias.recipe == recipe and (not alias.old or alias.old in before)]
            for alias in mine:
                now.pop(alias.old, None)
            for alias in mine:
                value = before.get(alias.old)
                now[alias.new] = value if alias.convert is None else alias.convert(value)
        return now

    def tensor(self, system: nn.Module, name: str, written: int) -> str:
        """Today's name of a tensor in the state of a system."""
        return _descend(system, name, _later(self.tensors, written))


def rename(tree: Mapping[str, str], name: str) -> str:
    """A dotted name whose beginning, of whole parts, is a key of ``tree`` gets the value in its place."""
    for old, new in tree.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def _later(aliases: Iterable[T], written: int) -> list[list[T]]:
    """The entries that are younger than a file, those of one format together, oldest first."""
    young = sorted((alias for alias in aliases if alias.since > written), key=lambda alias: alias.since)
    return [list(batch) for _, batch in groupby(young, key=lambda alias: alias.since)]


def _descend(module: nn.Module, name: str, batches: Sequence[Sequence[TensorAlias]]) -> str:
    """The name of something inside a module, renamed by the module's own entries and then by those of its parts."""
    classes = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__}
    for batch in batches:
        name = rename({alias.old: alias.new for alias in batch if alias.module in classes}, name)
    if isinstance(module, NamesLayers):
        under, other = module.names_layers()
        if name.startswith(f"{under}."):
            layer, _, rest = name[len(under) + 1 :].partition(".")
            return f"{under}.{_descend(other, layer.replace('/', '.'), batches).replace('.', '/')}.{rest}"
    first, _, rest = name.partition(".")
    part = module._modules.get(first)
    return f"{first}.{_descend(part, rest, batches)}" if part is not None and rest else name


CORE = Aliases(
    tensors=(
        TensorAlias(2, "core.nn.controlnet.Hint", "enter", "conv_in"),
        TensorAlias(2, "core.nn.controlnet.Hint", "leave", "conv_out"),
        TensorAlias(2, "core.nn.flux.Flux", "enter", "proj_in"),
        TensorAlias(2, "core.nn.flux.SingleBlock", "leave", "proj_out"),
        TensorAlias(2, "core.nn.mmdit.MMDiT", "enter", "proj_in"),
        TensorAlias(2, "core.nn.transformer2d.SpatialTransformer", "enter", "proj_in"),
        TensorAlias(2, "core.nn.transformer2d.SpatialTransformer", "leave", "proj_out"),
    )
)


def known(packages: Sequence[str]) -> Aliases:
    """What was renamed in core and in packages with recipes, as far as they have a module ``aliases``."""
    found = CORE
    for package in packages:
        place = importlib.import_module(package).__file__
        if place is not None and (Path(place).parent / "aliases.py").exists():
            found += importlib.import_module(f"{package}.aliases").ALIASES
    return found
