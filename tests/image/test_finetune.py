"""Fine-tuning pictures' models: exact at the start, better after it, self-contained, resumed bit for bit."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import langevin
from app.main import main
from core.finetune import beginning
from core.grid import trailing
from core.random import TrainingRNG
from core.recipe import Recipe, build, load
from core.sample.heun import heun
from core.systems.sampling import Sampling
from core.train.loop import train
from tests.support.runs import QUIET, checkpoint, quiet, text_to_image

FEW = Sampling(heun, trailing, 2)
NET = {"size": 16, "channels": 1, "classes": 2, "width": 32}


def pictures(path: Path, shift: float, count: int = 24) -> Path:
    """Two classes of squares, none like another; ``shift`` is added to all of them."""
    images = -0.5 + shift + 0.02 * np.random.default_rng(0).standard_normal((count, 16, 16)).astype(np.float32)
    labels = np.arange(count) % 2
    images[labels == 1, 4:12, 4:12] += 0.8
    np.savez(path, images=images, labels=labels)
    return path


def short(recipe: Recipe, steps: int, lr: float) -> Recipe:
    """A recipe of so many small steps."""
    training = dataclasses.replace(recipe.training, steps=steps, batch=4, lr=lr, warmup=0)
    return dataclasses.replace(recipe, training=training)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two classes after a few steps, and other data."""
    folder = tmp_path_factory.mktemp("runs")
    pictures(folder / "first.npz", 0.0)
    pictures(folder / "second.npz", 0.5)
    made = build("image.recipes.ddpm.small", {"data": str(folder / "first.npz"), **NET})
    train(short(made, 20, 2e-3), quiet(folder / "source"))
    return folder


def begun(runs: Path, **given: object) -> Recipe:
    return beginning(runs / "source", other_data=True).recipe({"data": str(runs / "second.npz"), **given})


def loss(path: Path, data: Path) -> float:
    """The loss of the averaged model of a checkpoint on data, at fixed times and noise."""
    system = load(path).diffusion
    batch = build("image.recipes.ddpm.small", {"data": str(data), **NET}).data()[0].get(range(16))
    with torch.no_grad():
        return float(system.loss(batch, TrainingRNG(5, range(16))).mean)


def test_a_run_begins_as_the_average_of_its_source(runs: Path) -> None:
    recipe = begun(runs)
    assert recipe.arguments["data"] == str(runs / "second.npz") and recipe.arguments["width"] == 32
    system, source = recipe.system(), load(checkpoint(runs / "source"))
    assert recipe.initialize is not None
    recipe.initialize(system, runs)
    made, wanted = (model.draw(0, range(2), FEW) for model in (recipe.model(system.eval()), source))
    assert torch.equal(made, wanted)
    raw = load(checkpoint(runs / "source"), "model").draw(0, range(2), FEW)
    assert not torch.equal(raw, wanted)


def test_rate_and_warm_up_are_those_of_a_short_run(runs: Path) -> None:
    own = build("image.recipes.ddpm.small", {"data": str(runs / "second.npz"), **NET}).training
    training = begun(runs).training
    assert training.lr == pytest.approx(0.3 * own.lr)
    assert training.warmup == 100 * own.batch < own.warmup
    tiny = beginning(runs / "source").arguments
    assert "steps" not in tiny


def test_it_learns_the_new_data_opens_alone_and_is_fine_tuned_again(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "source", tmp_path / "source")
    recipe = beginning(tmp_path / "source", other_data=True).recipe({"data": str(runs / "second.npz")})
    path = train(short(recipe, 40, 2e-3), quiet(tmp_path / "new"))
    before, after = (loss(each, runs / "second.npz") for each in (checkpoint(tmp_path / "source"), path))
    assert after < 0.8 * before
    shutil.rmtree(tmp_path / "source")
    assert load(path).draw(0, range(2), FEW).shape == (2, 1, 16, 16)
    assert load(path).metadata["source"] == str(tmp_path / "source")
    again = beginning(tmp_path / "new").recipe({})
    assert again.arguments == recipe.arguments
    system = again.system()
    assert again.initialize is not None
    again.initialize(system, tmp_path)
    own = load(path).system.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in system.state_dict().items())


def test_a_run_that_was_killed_goes_on_bit_for_bit(runs: Path, tmp_path: Path) -> None:
    recipe = short(begun(runs), 4, 1e-3)
    whole = train(recipe, dataclasses.replace(quiet(tmp_path / "whole", save_every=2), keep=None))
    kept = tmp_path / "killed" / "checkpoints"
    kept.mkdir(parents=True)
    shutil.copy(whole.parent / "step-00000002.safetensors", kept)
    resumed = train(short(begun(runs), 4, 1e-3), quiet(tmp_path / "killed"))
    first, second = load_file(whole), load_file(resumed)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="is of a run with source"):
        train(dataclasses.replace(recipe, source=None), quiet(tmp_path / "killed"))


def test_another_size_and_other_classes(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = begun(runs, size=8, classes=3)
    system = recipe.system()
    assert recipe.initialize is not None
    recipe.initialize(system, runs)
    assert "new to the model: 2" in capsys.readouterr().out
    assert recipe.model(system.eval()).draw(0, range(3), FEW).shape == (3, 1, 8, 8)
    misfit = begun(runs, width=64)
    assert misfit.initialize is not None
    with pytest.raises(ValueError, match="does not fit the run's network"):
        misfit.initialize(misfit.system(), runs)


def test_data_without_classes_are_refused_in_a_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "plain.npz", images=images)
    words = ["--data", str(tmp_path / "plain.npz"), "--out", str(tmp_path / "run"), *QUIET]
    assert main(["train", "--from", str(runs / "source"), *words]) == 2
    assert "the data lack what the model is conditioned on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["edm", "--from", "SOURCE"], "is a model of ddpm, not of edm"),
        (["--from", "SOURCE", "--preset", "tiny"], "is of the preset small, not of tiny"),
        (["--from", "nowhere"], "nowhere does not exist"),
        (["--lora", "4"], "give it with --from"),
        (["--from", "SOURCE", "--lora", "many"], "a whole number, not 'many'"),
        (["ddpm", "--from", "SOURCE", "--lora", "4"], "leave the recipe ddpm out"),
        (["--from", "SOURCE", "--lora", "0"], "the rank is at least 1"),
    ],
)
def test_what_does_not_go_together(
    runs: Path, tmp_path: Path, words: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(runs / "source") if word == "SOURCE" else word for word in words]
    assert main(["train", *words, "--out", str(tmp_path / "run"), *QUIET]) == 2
    assert match in capsys.readouterr().err


def test_a_model_of_built_in_data_learns_from_other_data(tmp_path: Path) -> None:
    langevin.train("edm", tmp_path / "edm", width=16, steps=2, batch=4)
    data = pictures(tmp_path / "own.npz", 0.0)
    words = ["train", "--from", str(tmp_path / "edm"), "--data", str(data), "--steps", "2", "--batch", "4", *QUIET]
    assert main([*words, "--out", str(tmp_path / "new"), "--classes", "2"]) == 0
    (tmp_path / "edm").rename(tmp_path / "gone")
    found = load(checkpoint(tmp_path / "new"))
    assert found.name == "image.recipes.finetune.own" and found.shape == (1, 8, 8)
    assert found.diffusion.conditioner.table.weight.shape[0] == 3
    again = langevin.train(None, tmp_path / "again", start=tmp_path / "new", data=data, classes=2, steps=1, batch=4)
    assert again.model.name == found.name
    with pytest.raises(ValueError, match="name a recipe"):
        langevin.train(None, tmp_path / "x")


def test_a_lora_on_a_model_of_classes_leaves_it_alone(runs: Path, tmp_path: Path) -> None:
    words = ["train", "--from", str(runs / "source"), "--data", str(runs / "second.npz"), "--lora", "2", *QUIET]
    assert main([*words, "--steps", "3", "--batch", "4", "--out", str(tmp_path / "lora")]) == 0
    found, base = load(checkpoint(tmp_path / "lora")), load(checkpoint(runs / "source"))
    assert found.name == "image.recipes.lora.own"
    own = base.system.state_dict()
    state = {**dict(found.system.named_parameters()), **dict(found.system.named_buffers())}
    assert all(torch.equal(value, state[name]) for name, value in own.items())
    assert all("lora." in name for name in load_file(checkpoint(tmp_path / "lora")) if name.startswith("model/"))
    assert not torch.equal(found.draw(0, range(2), FEW), base.draw(0, range(2), FEW))


def test_the_autoencoder_comes_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text_to_image(tmp_path)
    shutil.rmtree(tmp_path / "ae")
    words = ["train", "--from", str(tmp_path / "ldm"), "--steps", "2", "--batch", "4", *QUIET]
    assert main([*words, "--out", str(tmp_path / "new")]) == 0
    new, old = (load(checkpoint(tmp_path / name)).diffusion for name in ("new", "ldm"))
    codec = new.codec.state_dict()
    assert all(torch.equal(value, codec[name]) for name, value in old.codec.state_dict().items())
    assert float(old.codec.get_buffer("scale")[0]) != 1
    assert main([*words, "--out", str(tmp_path / "x"), "--autoencoder", str(tmp_path / "ae")]) == 2
    assert "brings its autoencoder along" in capsys.readouterr().err


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """Four captioned pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a red cat")
    return folder


@pytest.mark.parametrize("name", ["stable_diffusion", "sdxl", "sd3", "flux"])
def test_a_published_folder(folders: dict[str, Path], name: str, captioned: Path, tmp_path: Path) -> None:
    """Its network is trained and saved, or a LoRA; the rest is opened from where it lies, and stays."""
    base = ["train", "--from", str(folders[name]), "--data", str(captioned), "--size", "32", *QUIET]
    for kind, more in (("whole", ["--lr", "1e-2"]), ("lora", ["--lora", "2", "--lr", "1e-1"])):
        words = [*base, "--steps", "2", "--batch", "2", "--out", str(tmp_path / kind), *more]
        assert main(words) == 0
        tensors = load_file(checkpoint(tmp_path / kind))
        start = "model/denoiser." if kind == "whole" else "model/lora."
        assert all(key.startswith(start) for key in tensors if key.startswith("model/"))
        found, source = load(checkpoint(tmp_path / kind)), langevin.open(folders[name]).model
        assert found.sampling.guidance == source.sampling.guidance
        asked = {"caption": ["a cat"]}
        texts = [each.diffusion.conditioner(asked).tokens for each in (found, source)]
        assert torch.equal(*texts)
        picture = tmp_path / f"{kind}.png"
        assert main(["sample", str(tmp_path / kind), "--out", str(picture), "--count", "1", "--steps", "1"]) == 0
        assert Image.open(picture).size == (32, 32)
