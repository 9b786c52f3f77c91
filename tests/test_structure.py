"""The house stands as docs/architecture.md draws it: layers, file sizes, no tunnels, a cheap import."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOMAINS = {"image", "video", "audio", "three_d", "motion", "biology"}
PACKAGES = {"core", "app"} | DOMAINS

# Each part of core and the parts it may import; what is not listed for a part is above it or beside it.
FLOOR = {"cond", "random"}
PATH = FLOOR | {"schedule", "prediction", "denoiser"}
MAY_IMPORT = {
    "cond": set(),
    "random": set(),
    "nn": {"cond", "nn"},
    "autoencoder": {"cond", "nn", "autoencoder"},
    "layout": {"cond", "nn", "autoencoder", "layout", "checkpoint"},
    "schedule": set(),
    "prediction": set(),
    "denoiser": {"cond", "schedule", "prediction"},
    "mixture": PATH,
    "grid": {"schedule"},
    "sample": PATH | {"sample"},
    "guidance": PATH | {"guidance"},
    "likelihood": PATH | {"sample", "mixture"},
    "edit": PATH | {"sample", "grid", "likelihood"},
    "certificate": PATH | {"sample", "grid", "mixture", "certificate"},
    "weak": PATH | {"sample", "mixture", "certificate"},
    "objective": PATH | {"objective"},
    "distill": PATH | {"sample", "grid", "guidance", "objective"},
    "condition": {"cond", "nn", "condition"},
    "codec": {"autoencoder", "nn", "random"},
    "metrics": set(),
    "ema": set(),
    "checkpoint": set(),
    "aliases": set(),
    "provenance": set(),
}
MAY_IMPORT["compiled"] = PATH | {"autoencoder"}
BELOW_SYSTEM = set(MAY_IMPORT)
MAY_IMPORT["data"] = BELOW_SYSTEM
MAY_IMPORT["cache"] = BELOW_SYSTEM | {"data"}
MAY_IMPORT["system"] = BELOW_SYSTEM
MAY_IMPORT["autoencoding"] = BELOW_SYSTEM | {"system"}
MAY_IMPORT["adapted"] = BELOW_SYSTEM | {"system"}
MAY_IMPORT["controlled"] = BELOW_SYSTEM | {"system", "adapted"}
MAY_IMPORT["recipe"] = BELOW_SYSTEM | {"system", "data"}
MAY_IMPORT["train"] = BELOW_SYSTEM | {"system", "data", "recipe", "train", "record"}
MAY_IMPORT["record"] = BELOW_SYSTEM


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else ""


def test_core_imports_flow_downwards() -> None:
    wrong = []
    for path in sorted((ROOT / "core").rglob("*.py")):
        here = path.relative_to(ROOT / "core").parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        assert here in MAY_IMPORT, (
            f"core/{here} has no place in the layers: give it one here and in docs/architecture.md"
        )
        for name in imports(path):
            top = name.split(".")[0]
            if top in PACKAGES - {"core"} or (top == "core" and part(name) not in MAY_IMPORT[here] | {here}):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, wrong


def test_samplers_and_objectives_never_meet() -> None:
    for here, there in (("sample", "core.objective"), ("objective", "core.sample")):
        for path in [*(ROOT / "core").glob(f"{here}.py"), *(ROOT / "core" / here).glob("*.py")]:
            assert not any(name.startswith(there) for name in imports(path)), path


def test_domains_know_core_and_themselves_only() -> None:
    wrong = []
    for domain in DOMAINS:
        for path in (ROOT / domain).rglob("*.py"):
            for name in imports(path):
                top = name.split(".")[0]
                allowed = {"core", domain} | (
                    {"app"} if path.name == "train.py" and path.parent.name == domain else set()
                )
                if top in PACKAGES and top not in allowed:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, wrong


def test_recipes_are_leaves() -> None:
    for path in sources():
        if path.parent.name != "recipes" and path.parts[-3:-1] != ("app",):
            assert not any(".recipes." in name for name in imports(path)), f"{path} imports a recipe"


def test_networks_import_torch_einops_and_timm_only() -> None:
    standard = set(sys.stdlib_module_names)
    for folder in ("nn", "autoencoder"):
        for path in (ROOT / "core" / folder).rglob("*.py"):
            foreign = {name.split(".")[0] for name in imports(path)} - standard - {"torch", "einops", "timm", "core"}
            assert not foreign, f"{path} imports {foreign}"


def test_files_can_be_read_in_one_sitting() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    long = [str(path) for path in [*sources(), *tests] if len(path.read_text().splitlines()) > 400]
    assert not long


def test_no_keyword_tunnels_in_core() -> None:
    wrong = []
    for path in (ROOT / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.args.kwarg:
                wrong.append(f"{path.name}:{node.lineno} {node.name} takes **{node.args.kwarg.arg}")
    assert not wrong, wrong


def test_no_string_switches_in_core() -> None:
    """A parameter that is a string never selects behaviour: pass the function. Foreign layouts are data and exempt."""
    wrong = []
    for path in (ROOT / "core").rglob("*.py"):
        if "layout" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                wrong += [f"{path.name}:{line}" for line in string_switches(node)]
    assert not wrong, wrong


def string_switches(function: ast.FunctionDef) -> Iterator[int]:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    names = {a.arg for a in arguments if a.annotation and ast.unparse(a.annotation).split("[")[0] in {"str", "Literal"}}
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id in names:
            if any(isinstance(value, ast.Constant) and isinstance(value.value, str) for value in node.comparators):
                yield node.lineno


def test_every_module_says_what_it_is() -> None:
    silent = [str(p) for p in sources() if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent


def test_import_of_core_leaves_heavy_packages_alone() -> None:
    modules = ", ".join(f"core.{path.stem}" for path in (ROOT / "core").glob("*.py") if path.stem != "__init__")
    code = f"import sys, core.sample, {modules}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ.copy())
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


HEAVY = [
    "accelerate",
    "diffusers",
    "transformers",
    "timm",
    "sklearn",
    "scipy.stats",
    "torchvision",
    "tensorboard",
    "rich",
]
