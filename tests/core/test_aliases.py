"""Files of an older format: recipes, arguments and tensors by their old names open, sample and go on as before."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy.nursery import digest

from core import aliases
from core.aliases import Aliases, ArgumentAlias, RecipeAlias, TensorAlias
from core.denoiser import Denoiser
from core.nn.dit import DiT, Patches
from core.prediction import FlowVelocity
from core.recipe import build, load
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.systems.lora import LoRADiffusion
from core.train.loop import train
from core.train.run import Run
from core.train.state import newest
from core.weights.checkpoint import FORMAT, CheckpointError, read, read_metadata, write

TOY = ("toy",)
CIRCLE = "toy.recipes.points.circle"
NET = "toy.recipes.points.Net"
RENAMED = Aliases(
    (RecipeAlias(1, "toy.recipes.points.ring", CIRCLE),),
    (
        ArgumentAlias(1, CIRCLE, "forget", "dropout", lambda share: share / 100),
        ArgumentAlias(1, CIRCLE, "", "parts", lambda _: 1),
    ),
    (TensorAlias(1, NET, "say.0", "layers.0"), TensorAlias(1, NET, "say", "layers")),
)


def aged(path: Path) -> None:
    """Make of a checkpoint one of format 0, from before the renames."""
    metadata = read_metadata(path)
    arguments = {key: value for key, value in metadata["arguments"].items() if key not in ("dropout", "parts")}
    old: dict[str, Any] = {
        **metadata,
        "recipe": "toy.recipes.points.ring",
        "arguments": {**arguments, "forget": 100 * metadata["arguments"]["dropout"]},
    }
    tensors = {name.replace(".net.layers.", ".net.say."): value.clone() for name, value in read(path).items()}
    assert tensors.keys() != read(path).keys()
    write(path, tensors, {**old, "format": 0})


def quiet(folder: Path) -> Run:
    return Run(
        folder, log_every=0, save_every=10, validate_every=0, sample_every=0, tensorboard=False, cpu=True, keep=None
    )


def test_an_old_checkpoint_opens_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = build(CIRCLE, {"steps": 10}, TOY)
    path = train(made, quiet(tmp_path))
    loaded = load(path, packages=TOY)
    wanted = loaded.draw(0, range(4))
    aged(path)
    with pytest.raises(CheckpointError, match="ring"):
        load(path, packages=TOY)
    monkeypatch.setattr(aliases, "CORE", RENAMED)
    loaded = load(path, packages=TOY)
    assert loaded.name == CIRCLE and loaded.metadata["arguments"] == made.arguments
    assert torch.equal(loaded.draw(0, range(4)), wanted)


def test_an_old_run_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = build(CIRCLE, {"steps": 30}, TOY)
    whole = train(made, quiet(tmp_path / "whole"))
    train(made, quiet(tmp_path / "killed"))
    for later in sorted((tmp_path / "killed" / "checkpoints").glob("*.safetensors"))[1:]:
        later.unlink()
    last = newest(tmp_path / "killed")
    assert last is not None
    aged(last)
    with pytest.raises(CheckpointError, match="ring"):
        train(made, quiet(tmp_path / "killed"))
    monkeypatch.setattr(aliases, "CORE", RENAMED)
    assert digest(train(made, quiet(tmp_path / "killed"))) == digest(whole)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = train(build(CIRCLE, {"steps": 1}, TOY), quiet(tmp_path))
    assert read_metadata(path)["format"] == FORMAT
    write(path, read(path), {**read_metadata(path), "format": FORMAT + 1})
    with pytest.raises(CheckpointError, match=rf"of format {FORMAT + 1}.* up to {FORMAT}: install a newer one"):
        load(path, packages=TOY)
    with pytest.raises(CheckpointError, match="install a newer one"):
        train(build(CIRCLE, {"steps": 2}, TOY), quiet(tmp_path))


class Inner(nn.Module):
    """Its two layers have had each other's names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)


class Outer(nn.Module):
    """Holds one module twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Inner(), Inner()])
        self.again = self.blocks[1]


class Derived(Inner):
    """Has all that an ``Inner`` has."""


INNER, OUTER = (f"{kind.__module__}.{kind.__qualname__}" for kind in (Inner, Outer))
CHAINED = Aliases(
    tensors=(
        TensorAlias(1, INNER, "first", "second"),
        TensorAlias(1, INNER, "second", "first"),
        TensorAlias(3, OUTER, "layers", "blocks"),
        TensorAlias(2, OUTER, "parts", "layers"),
    )
)


@pytest.mark.parametrize(
    ("written", "old", "new"),
    [
        (0, "parts.0.first.weight", "blocks.0.second.weight"),
        (0, "parts.1.second.bias", "blocks.1.first.bias"),
        (1, "parts.0.first.weight", "blocks.0.first.weight"),
        (2, "parts.0.first.weight", "parts.0.first.weight"),
        (2, "layers.0.first.weight", "blocks.0.first.weight"),
        (0, "again.first.weight", "again.second.weight"),
        (0, "partsof.0.first.weight", "partsof.0.first.weight"),
        (3, "blocks.0.first.weight", "blocks.0.first.weight"),
    ],
)
def test_names_are_renamed_where_they_belong(written: int, old: str, new: str) -> None:
    assert CHAINED.tensor(Outer(), old, written) == new


def test_a_derived_class_is_meant_too() -> None:
    assert CHAINED.tensor(nn.Sequential(Derived()), "0.first.bias", 0) == "0.second.bias"


def test_recipes_and_arguments_follow_in_their_order() -> None:
    found = Aliases(
        (RecipeAlias(2, "b", "c"), RecipeAlias(1, "a", "b")),
        (ArgumentAlias(1, "c", "x", "y"), ArgumentAlias(1, "c", "y", "x"), ArgumentAlias(2, "d", "x", "z")),
    )
    assert [found.recipe("a", written) for written in range(3)] == ["c", "a", "a"]
    assert found.recipe("b", 1) == "c"
    assert found.adapt("c", {"x": 1, "y": 2, "z": 3}, 0) == {"x": 2, "y": 1, "z": 3}
    assert found.adapt("c", {"x": 1}, 1) == {"x": 1}


def test_a_lora_follows_the_names_of_its_networks_layers() -> None:
    system = LoRADiffusion(Diffusion(Denoiser(DiT(Patches((4, 4), 2, 16, 2), 2, 2), Flow(), FlowVelocity())), 2)
    name = next(name for name in system.state_dict() if "blocks/1" in name)
    old = name.replace("blocks/1", "stack/1")
    table = Aliases(tensors=(TensorAlias(1, f"{DiT.__module__}.DiT", "stack", "blocks"),))
    assert old != name and table.tensor(system, old, 0) == name


def test_a_package_brings_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sea").mkdir()
    (tmp_path / "sea" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert aliases.known(["sea"]) == aliases.CORE
    text = "from core.aliases import Aliases, RecipeAlias\nALIASES = Aliases((RecipeAlias(1, 'sea.a', 'sea.b'),))\n"
    (tmp_path / "sea" / "aliases.py").write_text(text)
    importlib.invalidate_caches()
    assert aliases.known(["sea"]).recipe("sea.a", 0) == "sea.b"
    assert replace(aliases.known(["sea"]), recipes=aliases.CORE.recipes) == aliases.CORE
