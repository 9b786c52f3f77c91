"""Models of a person's own pictures: any size, the arguments that pictures decide, checkpoints that open alone."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.random import TrainingRNG
from core.recipe import Recipe, build, load
from core.registry import presets, systems
from core.systems.system import System
from core.train.loop import train
from image.facts import picture_arguments
from image.own import Shape
from tests.support.runs import quiet

DIFFUSIONS = [
    f"{outline.module}.own"
    for outline in systems().values()
    if outline.module.startswith("image.")
    and "own" in outline.presets
    and outline.module.rpartition(".")[2] in ("ddpm", "score_sde", "edm", "flow", "dit")
]
AUTOENCODER, LDM = "image.recipes.autoencoder.own", "image.recipes.ldm.own"
NARROW = {"batch": 4, "steps": 1, "warmup": 1, "width": 16}


def paint(path: Path, chance: np.random.Generator, shape: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(chance.integers(0, 256, shape, dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ten pictures of each kind: grey squares, colour in class folders with captions, low and wide ones."""
    home = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(0)
    for index in range(10):
        paint(home / "grey" / f"{index}.png", chance, (28, 28))
        (home / "grey" / f"{index}.txt").write_text(" ".join(["dot"] * (index + 1)))
        paint(home / "colour" / ("cat" if index % 2 else "old dog") / f"{index}.png", chance, (100, 75, 3))
        paint(home / "low" / f"{index}.png", chance, (9, 17, 3))
    return {kind: home / kind for kind in ("grey", "colour", "low")}


def recipe_for(name: str, data: Path, **given: Any) -> Recipe:
    """A recipe with the arguments that its data decide, as the command builds it."""
    taken = build_parameters(name)
    decided = {key: value for key, value in picture_arguments(data).items() if key in taken}
    return build(name, {"data": str(data), **decided, **NARROW, **given})


def build_parameters(name: str) -> set[str]:
    module, preset = name.rsplit(".", 1)
    return set(inspect.signature(presets(importlib.import_module(module))[preset]).parameters)


def loss_of(recipe: Recipe, system: System, count: int = 3) -> torch.Tensor:
    return system(recipe.data()[0].get(range(count)), TrainingRNG(0, range(count))).mean


SHAPES = {"grey": (1, 28, 28), "colour": (3, 100, 75), "low": (3, 9, 17)}


def test_every_pixel_system_has_it() -> None:
    assert len(DIFFUSIONS) == 5


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", [*DIFFUSIONS, AUTOENCODER])
def test_every_weight_learns_from_pictures_of_any_size(name: str, kind: str, pictures: dict[str, Path]) -> None:
    given: dict[str, Any] = {"depth": 1} if ".dit." in name else {}
    recipe = recipe_for(name, pictures[kind], **given)
    torch.manual_seed(0)
    system = recipe.system().train()
    with torch.no_grad():  # last layers begin at 0, and would let no gradient through
        for parameter in system.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    loss = loss_of(recipe, system)
    loss.backward()
    assert bool(loss.isfinite())
    still = [
        key
        for key, value in system.named_parameters()
        if value.requires_grad and (value.grad is None or not value.grad.any())
    ]
    assert not still
    if system.makes_samples:
        assert recipe.shape == SHAPES[kind] == tuple(recipe.data()[0].get([0])["x"].shape[1:])
        model = recipe.model(system.eval())
        made = model.draw(0, range(3), dataclasses.replace(recipe.sampling, steps=2))
        assert made.shape == (3, *SHAPES[kind]) and bool(made.isfinite().all())
        assert torch.allclose(model.draw(0, [2], dataclasses.replace(recipe.sampling, steps=2)), made[2:], atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "latents", "picture"),
    [("grey", (4, 7, 7), (1, 28, 28)), ("captioned", (4, 12, 9), (3, 96, 72)), ("low", (4, 2, 4), (3, 8, 16))],
)
def test_latent_diffusion_of_any_size(
    kind: str, latents: tuple[int, ...], picture: tuple[int, ...], pictures: dict[str, Path], tmp_path: Path
) -> None:
    """Sides are cropped to what the autoencoder divides by: an eighth of those longer than 96, else a quarter."""
    source = pictures["colour" if kind == "captioned" else kind]
    data = tmp_path / "data"
    data.mkdir()
    for index, path in enumerate(sorted(source.rglob("*.png"))):
        shutil.copy(path, data / f"{index}.png")
        (data / f"{index}.txt").write_text(f"picture {index}")
    recipe = recipe_for(LDM, data, latent_width=16, text_width=16)
    assert recipe.shape == latents
    assert tuple(recipe.data()[0].get([0])["x"].shape[1:]) == picture
    system = recipe.system().train()
    loss_of(recipe, system).backward()
    assert all(value.grad is None for key, value in system.named_parameters() if key.startswith("codec"))
    assert any(value.grad is not None and value.grad.any() for value in system.parameters())
    model = recipe.model(system.eval())
    made = model.draw(0, range(2), dataclasses.replace(recipe.sampling, steps=2))
    assert made.shape == (2, *picture) and bool(made.isfinite().all())


def test_captions_are_needed_where_they_are_read(pictures: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"has no captions: add a table such as captions\.csv, or train edm"):
        recipe_for(LDM, pictures["low"]).data()
    with pytest.raises(ValueError, match="too small for latents, a side of 4 to one: use edm"):
        build(LDM, {"data": "nowhere", "size": [3, 40]})


@pytest.mark.parametrize("name", ["image.recipes.edm.own", "image.recipes.dit.own"])
def test_a_checkpoint_opens_without_its_data(name: str, pictures: dict[str, Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(pictures["colour"], data)
    given: dict[str, Any] = {"depth": 1, "fold": 25} if ".dit." in name else {"fold": 16}
    recipe = recipe_for(name, data, **given)
    path = train(recipe, quiet(tmp_path / "run"))
    before = load(path).draw(0, range(2), dataclasses.replace(recipe.sampling, steps=2))
    shutil.rmtree(data)
    model = load(path)
    assert model.shape == (3, 100, 75) and model.metadata["arguments"] == recipe.arguments
    assert torch.equal(model.draw(0, range(2), dataclasses.replace(model.sampling, steps=2)), before)
    assert model.prompts.parse("cat, old dog, 1", 3)["label"].tolist() == [0, 1, 1]


# What data decide.


def test_pictures_decide_size_and_channels(pictures: dict[str, Path]) -> None:
    grey, colour, low = (picture_arguments(pictures[kind]) for kind in SHAPES)
    assert (grey["size"], grey["channels"], grey["classes"]) == ([28, 28], 1, [])
    assert (colour["size"], colour["channels"], colour["classes"]) == ([100, 75], 3, ["cat", "old dog"])
    assert (low["size"], low["channels"], low["classes"]) == ([9, 17], 3, [])


def test_captions_decide_the_length(pictures: dict[str, Path]) -> None:
    assert picture_arguments(pictures["grey"])["length"] == 1 + 10  # of ten words, and the first token


def test_values_decide_the_deviation(tmp_path: Path) -> None:
    """Half of the pixels at 255 and half at 0 deviate by 1; those that are all alike by the least there is."""
    half = np.zeros((12, 12, 3), np.uint8)
    half[:6] = 255
    for index in range(4):
        half[0, 0] = 250 + index  # no two pictures are the same
        (tmp_path / "half").mkdir(exist_ok=True)
        Image.fromarray(half).save(tmp_path / "half" / f"{index}.png")
        (tmp_path / "flat").mkdir(exist_ok=True)
        Image.new("RGB", (12, 12), (9, 9, 9 + index)).save(tmp_path / "flat" / f"{index}.png")
    assert picture_arguments(tmp_path / "half")["deviation"] == pytest.approx(1.0, abs=0.01)
    assert picture_arguments(tmp_path / "flat")["deviation"] == 0.05


def test_arrays_decide_alike(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (12, 10, 14), dtype=np.uint8)
    labels, names = np.arange(12) % 3, ["a", "b", "c"]
    np.savez(tmp_path / "x.npz", images=images, labels=labels, class_names=names, captions=["one two"] * 12)
    found = picture_arguments(tmp_path / "x.npz")
    assert (found["size"], found["channels"], found["classes"], found["length"]) == ([10, 14], 1, names, 3)
    scaled = images / 127.5 - 1
    assert found["deviation"] == pytest.approx(float(scaled.std()), abs=0.01)


def many(sizes: list[tuple[int, int]], folder: Path) -> Path:
    for index, (height, width) in enumerate(sizes):
        paint(folder / f"{index:02d}.png", np.random.default_rng(index), (height, width, 3))
    return folder


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([(20, 30)] * 10, [20, 30]),
        ([(20, 30)] * 19 + [(50, 50)], [20, 30]),  # nearly all
        ([(20, 30), (41, 60), (90, 45)], [40, 40]),  # the middle one of the shorter sides
        ([(300, 200)] * 3, [128, 88]),  # as large as is trained unasked
        ([(300, 200), (400, 500), (600, 601)], [128, 128]),
        ([(5, 7), (6, 4)], [8, 8]),
    ],
)
def test_one_size_is_chosen_for_all(sizes: list[tuple[int, int]], chosen: list[int], tmp_path: Path) -> None:
    assert picture_arguments(many(sizes, tmp_path / "data"))["size"] == chosen


@pytest.mark.parametrize(
    ("size", "fold", "levels"),
    [((8,), 1, 1), ((16, 9), 1, 2), ((28, 28), 2, 2), ((100, 75), 8, 2), ((9, 17), 2, 2), ((128,), 8, 2)],
)
def test_the_fold_leaves_a_small_grid(size: tuple[int, ...], fold: int, levels: int) -> None:
    found = Shape(size, 3, ())
    assert (found.fold, found.levels) == (fold, levels)
    assert dataclasses.replace(found, folded=3).fold == 3


@pytest.mark.parametrize("size", [(), (0,), (3, 4, 5)])
def test_a_size_that_is_none_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give its height and width, or one for a square"):
        _ = Shape(size, 3, ()).sides
