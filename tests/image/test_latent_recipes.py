"""Presets for pictures of your own: trained on a little captioned folder, and the autoencoder with all its losses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from core.autoencoder import KLAutoencoder, Plan
from core.autoencoder.adversary import PatchDiscriminator
from core.autoencoder.perceptual import Perceptual
from core.random import TrainingRNG
from core.recipe import Recipe, build, load, restore
from core.systems.autoencoder import AutoencoderTraining, Weights
from core.train.loop import train
from image.data import open_parts
from image.features import timm_features, timm_maps
from tests.support.runs import quiet

COUNT, SIZE = 12, 32


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioned folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        values = np.random.default_rng(number).integers(0, 256, (SIZE + number, 20, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"noise of number {number}")
    return folder


def shortly(recipe: Recipe, folder: Path) -> Path:
    """Two steps of two pictures."""
    short = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, batch=2, steps=2))
    return train(short, quiet(folder, log_every=1, validate_every=2))


@pytest.fixture(scope="module")
def codes(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Small autoencoders of 4 and of 16 channels."""
    folder = tmp_path_factory.mktemp("codes")
    return {
        latent: shortly(
            build("image.recipes.autoencoder.small", {"data": str(pictures), "size": SIZE, "latent": latent}),
            folder / str(latent),
        )
        for latent in (4, 16)
    }


@pytest.mark.parametrize(
    ("name", "latent", "sizes"),
    [
        ("ldm", 4, {"width": 32}),
        ("stable_diffusion", 4, {"width": 32}),
        ("sdxl", 4, {"width": 32, "size": 64}),
        ("sd3", 16, {"heads": 1, "depth": 2, "text_width": 32}),
        ("flux", 16, {"heads": 1, "doubles": 1, "singles": 1}),
    ],
)
def test_small_presets_learn_from_a_captioned_folder(
    name: str, latent: int, sizes: dict[str, int], pictures: Path, codes: dict[int, Path], tmp_path: Path
) -> None:
    given = {"data": str(pictures), "autoencoder": str(codes[latent]), "size": SIZE, **sizes}
    path = shortly(build(f"image.recipes.{name}.small", given), tmp_path)
    loaded = load(path)
    asked = loaded.prompts.default(0, range(3))
    assert all(str(caption).startswith("noise of number") for caption in asked["caption"])
    samples = loaded.draw(0, range(3), dataclasses.replace(loaded.sampling, steps=2))
    assert samples.shape == (3, 3, given["size"], given["size"]) and bool(samples.isfinite().all())
    kept = loaded.system.codec.state_dict()
    assert float(kept["scale"].std()) > 0 and bool(kept["scale"].isfinite().all())  # measured, not left at 1


def test_pictures_with_and_without_captions_are_data(pictures: Path, tmp_path: Path) -> None:
    captioned, bare = open_parts(pictures, 8), tmp_path / "plain"
    assert captioned.captioned and len(captioned.train) + len(captioned.held_out) == COUNT
    bare.mkdir()
    for file in pictures.glob("*.png"):
        (bare / file.name).write_bytes(file.read_bytes())
    found = open_parts(bare, 8)
    assert not found.captioned and len(found.train) + len(found.held_out) == COUNT
    assert "caption" not in found.train.get([0]) and len(captioned.train.get([0])["caption"]) == 1
    assert found.train.get([0])["x"].shape == captioned.train.get([0])["x"].shape == (1, 3, 8, 8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "network.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False, num_classes=3).state_dict(), path)
    return path


def test_maps_are_what_the_network_sees_inside(weights: Path) -> None:
    maps = timm_maps("test_resnet", weights, (1, 3))
    network = timm_features("test_resnet", weights).network
    about = network.pretrained_cfg
    mean, deviation = (torch.tensor(about[name]).view(3, 1, 1) for name in ("mean", "std"))
    x = torch.rand(2, 3, 40, 48) * 2 - 1
    with torch.no_grad():
        expected = network.forward_intermediates((x / 2 + 0.5 - mean) / deviation, indices=[1, 3])[1]
    for found, wanted in zip(maps(x), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_vgg_s_maps_are_those_of_lpips() -> None:
    """relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3: before the first four poolings and the last."""
    with torch.device("meta"):
        network = timm.create_model("vgg16", pretrained=False, num_classes=0)
        found = network.forward_intermediates(torch.zeros(1, 3, 64, 64), indices=[0, 1, 2, 3, 4])[1]
    assert [tuple(each.shape[1:]) for each in found] == [
        (64, 64, 64),
        (128, 32, 32),
        (256, 16, 16),
        (512, 8, 8),
        (512, 4, 4),
    ]


def test_an_autoencoder_with_a_feature_network_opens_from_its_weights(weights: Path) -> None:
    """As a checkpoint is opened: built without memory, then given what was saved."""

    def make() -> AutoencoderTraining:
        plan = Plan(3, 2, (8, 8), 1, groups=4, middle_attention=False)
        feature_maps = timm_maps("test_resnet", weights, (0, 1))
        return AutoencoderTraining(
            KLAutoencoder(plan), Weights(), Perceptual(feature_maps), PatchDiscriminator(3, 8, 1)
        )

    saved = make()
    opened = restore(make, saved.state_dict(), weights)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    places = torch.zeros(2, dtype=torch.float64)
    rng = TrainingRNG(0, range(2))
    torch.testing.assert_close(opened({"x": x}, rng, places).mean, saved({"x": x}, rng, places).mean)
    assert not any(value.is_meta for value in [*opened.parameters(), *opened.buffers()])


def test_an_autoencoder_learns_from_all_its_losses(pictures: Path, weights: Path) -> None:
    """As in the published preset, with a smaller network to look with."""
    recipe = build("image.recipes.autoencoder.small", {"data": str(pictures), "size": 32})
    system = recipe.system()
    assert isinstance(system, AutoencoderTraining)
    full = AutoencoderTraining(
        system.autoencoder,
        dataclasses.replace(system.weights, discriminator_start=0),
        Perceptual(timm_maps("test_resnet", weights, (0, 1, 2))),
        system.discriminator,
    ).train()
    batch = recipe.data()[0].get(range(2))
    found = full(batch, TrainingRNG(0, range(2)))
    found.mean.backward()
    taught = {name.split(".")[0] for name, value in full.named_parameters() if value.grad is not None}
    assert taught == {"autoencoder", "discriminator"} and bool(found.mean.isfinite())
