"""Latent diffusion begins with an autoencoder: of a file, of a run's folder, or trained first."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from core.autoencoder import KLAutoencoder, Plan
from core.codec import Latents
from core.denoiser import Denoiser
from core.nn.unet import UNet
from core.prediction import FlowVelocity
from core.random import TrainingRNG
from core.recipe import Recipe, build
from core.schedule import Flow
from core.systems.autoencoder import AutoencoderTraining
from core.systems.diffusion import Diffusion
from core.train.loop import train
from core.train.state import newest
from core.weights.checkpoint import CheckpointError
from image import latent
from image.latent import encoded_examples, from_autoencoder, open_autoencoder
from tests.support.runs import quiet

SHORT = {"steps": 2, "batch": 4, "count": 40}


def first() -> Recipe:
    recipe = build("image.recipes.autoencoder.tiny", SHORT)
    return dataclasses.replace(recipe, data=lambda: (recipe.data()[0], None))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an autoencoder's run."""
    folder = tmp_path_factory.mktemp("autoencoder")
    train(first(), quiet(folder, log_every=1))
    return folder


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is of no autoencoder."""
    recipe = build("image.recipes.edm.tiny", {"width": 16, "steps": 1, "batch": 4})
    return train(recipe, quiet(tmp_path_factory.mktemp("edm")))


def system(plan: Plan | None = None) -> Diffusion:
    """A latent model with a fresh autoencoder."""
    made = first().system()
    assert isinstance(made, AutoencoderTraining)
    autoencoder = made.autoencoder if plan is None else KLAutoencoder(plan)
    channels = autoencoder.plan.latent
    net = UNet(channels, channels, 8, (1,), 1, (), groups=4, head_width=8)
    return Diffusion(Denoiser(net, Flow(), FlowVelocity()), codec=Latents(autoencoder))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_from_a_file_or_from_a_folder(run: Path, tmp_path: Path) -> None:
    path = newest(run)
    assert path is not None
    wanted = open_autoencoder(path).autoencoder
    found = []
    for given in (path, run):
        begun = system()
        assert not same(begun.codec.autoencoder, wanted)
        from_autoencoder(str(given), first())(begun, quiet(tmp_path))
        assert same(begun.codec.autoencoder, wanted)
        assert not any(parameter.requires_grad for parameter in begun.codec.parameters())
        found.append(begun.codec)
    assert same(found[0], found[1])
    assert not list(tmp_path.iterdir())


def test_what_is_diffused_is_standard(run: Path, tmp_path: Path) -> None:
    begun = system()
    from_autoencoder(str(run), first())(begun, quiet(tmp_path))
    data = first().data()[0].get(range(40))["x"]
    code = begun.codec.encode(data, TrainingRNG(0, range(40)))
    assert torch.allclose(code.mean((0, 2, 3)), torch.zeros(code.shape[1]), atol=0.1)
    assert torch.allclose(code.std((0, 2, 3)), torch.ones(code.shape[1]), atol=0.1)


def test_without_one_the_autoencoder_is_trained_first(run: Path, tmp_path: Path) -> None:
    begun = system()
    from_autoencoder("", first())(begun, quiet(tmp_path))
    path = newest(tmp_path / "autoencoder")
    assert path is not None and same(begun.codec.autoencoder, open_autoencoder(path).autoencoder)
    again = system()
    from_autoencoder("", first())(
        again, quiet(tmp_path)
    )  # a run that was stopped in its second stage does not repeat the first
    assert same(again.codec, begun.codec) and newest(tmp_path / "autoencoder") == path


def test_an_average_is_taken_not_the_last_weights(run: Path) -> None:
    from core.weights.checkpoint import read

    path = newest(run)
    assert path is not None
    state = open_autoencoder(path).state_dict()
    raw = read(path, "model/")
    assert state.keys() == raw.keys()
    assert any(not torch.equal(state[name], raw[name]) for name in raw)


def test_pictures_are_described_in_parts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, data = system().codec, first().data()[0]
    assert isinstance(codec, Latents)
    whole = encoded_examples(data, codec)
    monkeypatch.setattr(latent, "PIXELS", 7 * 32 * 32)
    torch.testing.assert_close(encoded_examples(data, codec), whole)
    monkeypatch.setattr(latent, "PIXELS", 1)
    monkeypatch.setattr(latent, "MEASURED", 3)
    torch.testing.assert_close(encoded_examples(data, codec), whole[:3])


def test_what_does_not_fit_is_refused_in_one_sentence(run: Path, diffusion: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    other = system(Plan(latent=7, widths=(8, 8), blocks=1, groups=4))
    for begun, given, words in (
        (other, run, r"does not fit the model: .* (has shape|is missing)"),
        (system(), diffusion, "not of an autoencoder"),
        (system(), empty, "is a folder"),
        (system(), tmp_path / "gone.safetensors", "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            from_autoencoder(str(given), first())(begun, quiet(tmp_path))
        assert "\n" not in str(caught.value)
    for wrong in (first().system(), Diffusion(Denoiser(torch.nn.Identity(), Flow(), FlowVelocity()))):
        with pytest.raises(ValueError, match="only latent diffusion is initialized from an autoencoder"):
            from_autoencoder(str(run), first())(wrong, quiet(tmp_path))
