"""Recipes: a name and plain arguments make a system, and nothing else can be named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.recipe import Cooldown, InverseRoot, Training, build, constant, cosine, linear, load
from core.weights.checkpoint import CheckpointError, read, write

NAME = "toy.recipes.points.circle"
TOY = ("toy",)


def checkpoint(path: Path, width: int = 8, name: str = NAME) -> Path:
    """A checkpoint with other weights in the model than in its average."""
    torch.manual_seed(0)
    recipe = build(NAME, {"width": width}, TOY)
    model, average = recipe.system().state_dict(), recipe.system().state_dict()
    tensors = {f"model/{key}": value for key, value in model.items()}
    tensors |= {f"ema/slow/{key}": value for key, value in average.items()}
    metadata = {"recipe": name, "arguments": dict(recipe.arguments), "averages": {"slow": "Constant"}, "step": 3}
    write(path, tensors, metadata)
    return path


def test_build_records_every_argument() -> None:
    recipe = build(NAME, {"width": 5}, TOY)
    assert recipe.name == NAME
    assert recipe.arguments == {"width": 5, "dropout": 0.1, "steps": 40, "parts": 1}


def test_a_file_opens_itself(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.safetensors")
    average, raw = load(path, packages=TOY), load(path, "model", TOY)
    assert average.metadata["step"] == 3
    for found, prefix in ((average, "ema/slow/"), (raw, "model/")):
        state = found.system.state_dict()
        stored = read(path, prefix)
        assert state.keys() == stored.keys()
        assert all(torch.equal(value, stored[key]) for key, value in state.items())
        assert not found.system.training and all(p.requires_grad for p in found.system.parameters())
    assert average.draw(0, range(3)).shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.path.join", "not the name of a recipe"),
        ("os.recipes.path.join", "not the name of a recipe"),
        ("toy.recipes.points", "not the name of a recipe"),
        ("toy.recipes.nowhere.circle", "no recipe module"),
        ("toy.recipes.points.linear", "no recipe called 'linear'"),
        ("toy.recipes.points.torch", "no recipe called 'torch'"),
        ("toy.recipes.points.square", "no recipe called 'square'"),
    ],
)
def test_only_recipes_can_be_named(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, {}, TOY)
    with pytest.raises(CheckpointError, match=message):
        load(checkpoint(tmp_path / "a.safetensors", name=name), packages=TOY)


def test_unknown_and_unplain_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'width'"):
        build(NAME, {"widht": 5}, TOY)
    with pytest.raises(ValueError, match="numbers, words or lists"):
        build(NAME, {"dropout": torch.tensor(0.0)}, TOY)


def test_a_misfit_is_one_sentence(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.safetensors")
    tensors = {f"model/{key}": value for key, value in build(NAME, {"width": 9}, TOY).system().state_dict().items()}
    metadata = {"recipe": NAME, "arguments": {"width": 8}, "averages": {}}
    write(path, tensors, metadata)
    with pytest.raises(CheckpointError, match="instead of"):
        load(path, packages=TOY)
    with pytest.raises(CheckpointError, match="no average called 'fast': it has model"):
        load(path, "fast", TOY)
    tensors.pop(next(iter(tensors)))
    write(path, tensors, metadata)
    with pytest.raises(CheckpointError, match="is missing"):
        load(path, packages=TOY)


def test_learning_rates() -> None:
    for decay, ends in ((constant, (1, 1)), (linear, (1, 0)), (cosine, (1, 0)), (InverseRoot(0.25), (1, 0.5))):
        assert (decay(0.0), decay(1.0)) == pytest.approx(ends)
    assert cosine(0.5) == pytest.approx(0.5)
    assert Cooldown(0.8)(0.8) == pytest.approx(1.0) and Cooldown(0.8)(0.9) == pytest.approx(0.5)
    training = Training(batch=10, steps=100, lr=2.0, warmup=200, decay=linear)
    assert training.rate(0, 0.0) == pytest.approx(2.0 / 20)
    assert training.rate(49, 0.5) == pytest.approx(1.0)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"steps": -1}, {"lr": 0.0}])
def test_training_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"training|learning rate"):
        Training(**wrong)
