"""Every recipe, found as the command finds it: tiny presets learn a step and sample, the others build."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest
import torch

from core.media.sheet import read_settings
from core.provenance import FORMAT
from core.recipe import build, load
from core.registry import presets, systems
from core.systems.diffusion import Diffusion
from core.train.loop import train
from tests.support.runs import quiet

FOUND = [
    (f"{module}.{preset}", function)
    for module, _, _ in systems().values()
    if module.startswith("image.") and not module.endswith((".lora", ".controlnet", ".finetune"))  # need a model first
    for preset, function in presets(importlib.import_module(module)).items()
]
MAKES_NO_SAMPLES = ("image.recipes.autoencoder.tiny", "image.recipes.autoencoder.vq")
TINY = [name for name, _ in FOUND if name.rpartition(".")[2].startswith("tiny") and name not in MAKES_NO_SAMPLES]
OWN_DATA = [
    (name, function)
    for name, function in FOUND
    if {"data", "features"} & set(inspect.signature(function).parameters) == {"data"}
    and not name.endswith(".own")  # whose network is made for its data: see test_own
]
SHORT = {"steps": 2, "batch": 4, "count": 40}


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder after two steps."""
    recipe = build("image.recipes.autoencoder.tiny", SHORT)
    short = dataclasses.replace(recipe, data=lambda: (recipe.data()[0], None))
    folder = tmp_path_factory.mktemp("autoencoder")
    return train(short, quiet(folder, log_every=1))


def test_every_system_has_its_three_presets() -> None:
    for name, (module, _, outlined) in systems().items():
        assert set(outlined) == set(presets(importlib.import_module(module)))  # as the source says without importing it
        kinds = {preset.split("_")[0] for preset in presets(importlib.import_module(module))}
        if module.startswith("image.") and name not in ("lora", "controlnet", "finetune"):
            assert kinds >= {"paper", "small", "tiny"}, name


@pytest.mark.parametrize("name", TINY)
def test_tiny_presets_learn_a_step_and_sample(name: str, code: Path, tmp_path: Path) -> None:
    given = SHORT | {"autoencoder": str(code)}
    made = build(name, {key: value for key, value in given.items() if key in build(name).arguments})
    recipe = dataclasses.replace(made, data=lambda: (made.data()[0], None))
    path = train(recipe, quiet(tmp_path, log_every=1, validate_every=2))
    loaded = load(path)
    assert loaded.metadata["arguments"]["batch"] == 4
    start = recipe.system().state_dict()
    assert any(not torch.equal(value, start[key]) for key, value in load(path, "model").system.state_dict().items())
    options = dataclasses.replace(loaded.sampling, steps=2)
    samples = loaded.draw(0, range(3), options)
    assert len(samples) == 3 and bool(samples.isfinite().all())
    assert torch.allclose(loaded.draw(0, [2], options), samples[2:], atol=1e-4)
    objects = loaded.modality.decode(samples, loaded.prompts.default(0, range(3)))
    loaded.modality.write(tmp_path / "sheet.png", objects, {"seed": 0})
    assert read_settings(tmp_path / "sheet.png") == {"seed": 0, "format": FORMAT}


@pytest.mark.parametrize(("name", "function"), OWN_DATA, ids=[name for name, _ in OWN_DATA])
def test_published_and_small_presets_build(name: str, function: object) -> None:
    assert callable(function)
    required = [p for p in inspect.signature(function).parameters.values() if p.default is inspect.Parameter.empty]
    recipe = build(name, {parameter.name: "nowhere" for parameter in required})
    with torch.device("meta"):
        system = recipe.system()
    assert sum(value.numel() for value in system.parameters()) > 1_000_000
    assert recipe.training.rate(10**6, 0.5) > 0
    if isinstance(system, Diffusion):
        assert float(recipe.sampling.grid(system.denoiser.schedule, recipe.sampling.steps)[0]) > 0
    with pytest.raises(ValueError, match="nowhere does not exist"):
        recipe.data()
