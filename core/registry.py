"""What there is, found where it lies: recipes, modalities, requests and operations of the domains, models on disk.

A domain is a package beside core with ``recipes/``; it has its modality in ``modality.py`` (MODALITY), its request in
``request.py`` (REQUEST), its edits in ``operations/`` (OPERATIONS) and what prepares its data, if anything does, in
``prepare.py`` (PREPARATION). Nothing registers them. What ``--help`` and
``langevin list`` need is read without importing torch.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from core.names import look_up
from core.parameters import PARAMETERS, About

if TYPE_CHECKING:
    from core.data.preparation import Preparation
    from core.model import Modality, Model, Operation, Request

ROOT = Path(__file__).parents[1]
USUAL = ("own", "tiny")  # presets, where none is named
INDEX = "model_index.json"  # the table of contents of a published folder


class Outline(NamedTuple):
    """A recipe module as its source says, without importing it."""

    module: str  # dotted
    about: str  # the first sentence of its docstring
    presets: Mapping[str, tuple[str, ...]]  # the parameters of each


def domains() -> list[str]:
    """The packages beside core that have recipes, by name."""
    return sorted(path.parents[1].name for path in ROOT.glob("*/recipes/__init__.py"))


def systems() -> dict[str, Outline]:
    """System name -> its recipe module. A name that two domains share is given with its domain, as ``image.ddpm``."""
    found = {}
    for domain in domains():
        for path in sorted((ROOT / domain / "recipes").glob("[!_]*.py")):
            found[f"{domain}.{path.stem}"] = _outline(path, f"{domain}.recipes.{path.stem}")
    names = [dotted.split(".")[1] for dotted in found]
    return {
        (dotted if names.count(dotted.split(".")[1]) > 1 else dotted.split(".")[1]): outline
        for dotted, outline in found.items()
    }


def _outline(path: Path, module: str) -> Outline:
    tree = ast.parse(path.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    presets = {
        node.name: tuple(argument.arg for argument in node.args.args)
        for node in sorted(functions, key=lambda node: node.name)
        if node.returns is not None and ast.unparse(node.returns) == "Recipe"
    }
    return Outline(module, (ast.get_docstring(tree) or "").split("\n")[0], presets)


def presets(module: ModuleType) -> dict[str, Callable[..., object]]:
    """The preset functions of a recipe module, by name."""
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and function.__annotations__.get("return") == "Recipe"
        and not name.startswith("_")
    }


def parameters() -> dict[str, About]:
    """What the parameters of recipes mean, by name: those of every domain, and those that only one has."""
    found = dict(PARAMETERS)
    for domain in domains():
        if (ROOT / domain / "parameters.py").is_file():
            found |= importlib.import_module(f"{domain}.parameters").PARAMETERS
    return found


def find(system: str, preset: str) -> tuple[str, Callable[..., object]]:
    """The dotted name and the function of a system's preset; raises UnknownNameError with the nearest name."""
    table = systems()
    short = {name.split(".")[-1]: outline for name, outline in table.items()}
    outline = look_up("recipe", system, short | table, "langevin list")
    look_up(f"preset of {system}", preset, dict.fromkeys(outline.presets), f"langevin info {system}")
    module = importlib.import_module(outline.module)
    return f"{module.__name__}.{preset}", presets(module)[preset]


def find_in(domain: str, system: str, preset: str | None) -> tuple[str, Callable[..., object]]:
    """``find`` among the recipes of one domain; without a preset, the first of ``USUAL`` that there is."""
    table = {name.split(".")[-1]: each for name, each in systems().items() if each.module.split(".")[0] == domain}
    outline = look_up(f"recipe of {domain}", system, table, "langevin list")
    name = next((each for each in USUAL if each in outline.presets), "") if preset is None else preset
    look_up(f"preset of {system}", name, dict.fromkeys(outline.presets), f"langevin info {system}")
    module = importlib.import_module(outline.module)
    return f"{module.__name__}.{name}", presets(module)[name]


def requests() -> dict[str, type[Request]]:
    """Domain -> its request."""
    return {domain: module.REQUEST for domain, module in _modules("request")}


def preparations() -> dict[str, type[Preparation]]:
    """Domain -> what prepares its data, where there is anything to prepare."""
    return {domain: module.PREPARATION for domain, module in _modules("prepare")}


def operations() -> dict[str, Mapping[str, type[Operation]]]:
    """Domain -> its operations by name."""
    return {domain: module.OPERATIONS for domain, module in _modules("operations")}


def modalities() -> dict[str, Modality[Any]]:
    """Domain -> its modality."""
    return {domain: module.MODALITY for domain, module in _modules("modality")}


def _modules(name: str) -> Iterator[tuple[str, Any]]:
    for domain in domains():
        if (ROOT / domain / f"{name}.py").exists() or (ROOT / domain / name / "__init__.py").exists():
            yield domain, importlib.import_module(f"{domain}.{name}")


def commands() -> dict[str, tuple[str, str]]:
    """Name -> module and help of the commands that only a domain has: modules in its ``commands/`` with ``main``."""
    found = {}
    for domain in domains():
        for path in sorted((ROOT / domain / "commands").glob("[!_]*.py")):
            about = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
            found[path.stem.replace("_", "-")] = (f"{domain}.commands.{path.stem}", about)
    return found


def newest(path: Path) -> Path:
    """The path itself, if it is a file or what others published, or the newest checkpoint in a run's folder."""
    if not path.is_dir() or (path / INDEX).is_file():
        return path
    found = sorted(path.glob("*.safetensors")) or sorted(path.glob("*/*.safetensors"))
    if not found:
        raise ValueError(f"{path} holds no checkpoint: give a .safetensors file, or the folder of a run")
    return found[-1]


def modality_of(path: Path) -> Modality[Any]:
    """The modality of what ``newest`` found, from its header alone. Raises ValueError for what no domain knows."""
    from core.recipe import build, read_header

    if path.is_dir():
        for modality in modalities().values():
            if modality.opens(path):
                return modality
        raise ValueError(f"{path} is no model that is known here: `langevin inspect {path}` says what it is")
    header = read_header(path)
    try:
        return build(header["recipe"], header["arguments"]).modality
    except ValueError as error:
        raise ValueError(f"{path} cannot be opened: {error}") from error


def open_model(path: Path, average: str | None = None, request: Request | None = None) -> Model:
    """The model of a checkpoint, of a run's folder, or of what others published. Raises ValueError for anything else.

    average: of the weights, by name; by default a checkpoint's first. request: what it is opened for.
    """
    from core.recipe import load

    path = newest(path)
    if not path.is_dir():
        return load(path, average)
    if average is not None:
        raise ValueError(f"{path} was published and has no averages: leave --average out")
    return modality_of(path).open_published(path, request)
