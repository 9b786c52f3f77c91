"""The source of the repository as syntax trees: modules, what they import, strings, switches."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOMAINS = {"image", "video", "audio", "three_d", "motion", "biology"}
TOP = {"app", "langevin"}
PACKAGES = {"core"} | TOP | DOMAINS
IMPORTERS = {"import_module", "find_spec", "__import__", "iter_modules", "walk_packages", "resolve_name"}


@cache
def modules() -> Mapping[str, tuple[Path, ast.Module]]:
    """Every module by its dotted name: where it lies, and its syntax tree."""
    found = {}
    for package in sorted(PACKAGES):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path, ast.parse(path.read_text())
    return found


def imports(module: str) -> Iterator[str]:
    """The modules and packages that a module imports, also inside its functions, ours as exactly as they exist."""
    path, tree = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules() else base


def within(name: str, parts: set[str]) -> bool:
    """Whether a dotted name is one of these or lies in one."""
    return any(name == part or name.startswith(part + ".") for part in parts)


def strings(tree: ast.Module) -> Iterator[str]:
    """Every string but docstrings; of an f-string its beginning."""
    about = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in about:
            yield node.value


def imported_by_name(tree: ast.Module) -> Iterator[str]:
    """What calls such as import_module("...") name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in IMPORTERS and node.args:
            for inner in ast.walk(node.args[0]):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    yield inner.value


def switches(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Where a parameter that is a string, or an attribute, is compared with words: the function and the comparison."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        names = {a.arg for a in arguments if a.annotation and is_text(ast.unparse(a.annotation))}
        for node in ast.walk(function):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                if isinstance(node.ops[0], ast.In | ast.NotIn):
                    found = chooses(node.left, names) and words(node.comparators[0])
                else:
                    found = any(chooses(side, names) for side in sides) and any(words(side) for side in sides)
                if found:
                    yield function.name, ast.unparse(node)
            elif isinstance(node, ast.Match) and any(
                isinstance(inner, ast.MatchValue) and words(inner.value) for inner in ast.walk(node)
            ):
                yield function.name, f"match {ast.unparse(node.subject)}"


def is_text(annotation: str) -> bool:
    """Whether an annotation is of a string or of some words."""
    return re.fullmatch(r"(typing\.)?(str|Literal\[.*\])( \| None)?", annotation.strip("'\"")) is not None


# What libraries name by words: it has no other name.
NAMED_BY_OTHERS = ("device.type", "dtype.kind", ".suffix", ".padding_mode")


def chooses(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is one of the parameters, or an attribute such as ``self.kind``."""
    if isinstance(node, ast.Attribute):
        return not ast.unparse(node).endswith(NAMED_BY_OTHERS)
    return isinstance(node, ast.Name) and node.id in names


def words(node: ast.expr) -> bool:
    """Whether an expression is a string, or a literal collection of strings."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return bool(node.elts) and all(words(each) for each in node.elts)
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
