"""The ControlNet recipe on a tiny run: it learns beside the model, samples, replays, and goes to diffusers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from safetensors.torch import load_file

from app.main import main
from core.nn.controlnet import ControlCond
from core.recipe import load
from image.controlnet import OWN, ControlNetDiffusion
from tests.support.runs import QUIET, checkpoint, text_to_image


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder, a text-to-image model in its code and a ControlNet of it, each trained for a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    text_to_image(folder)
    learn = ["--model", str(folder / "ldm"), "--batch", "8", "--steps", "6", "--lr", "1"]
    assert main(["train", "controlnet", "--out", str(folder / "control"), *learn, *QUIET]) == 0
    picture = Image.new("RGB", (48, 48))
    picture.paste((255, 0, 0), (24, 0, 48, 48))
    picture.save(folder / "photo.png")
    return folder


def test_only_the_controlnet_is_saved(runs: Path) -> None:
    tensors = load_file(checkpoint(runs / "control"))
    assert all(OWN in name for name in tensors if name.startswith(("model/", "ema/ema", "optimizer/")))
    assert any(bool(value.any()) for name, value in tensors.items() if "model/" in name and "outlets" in name)
    loaded, base = load(checkpoint(runs / "control")).system, load(checkpoint(runs / "ldm")).system
    assert isinstance(loaded, ControlNetDiffusion)
    own = base.denoiser.net.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.denoiser.net.net.state_dict().items())


def test_it_samples_and_replays(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, few = str(runs / "control"), ["--count", "2", "--steps", "1"]
    assert main(["sample", run, "--out", str(tmp_path / "own.png"), *few]) == 0
    words = ["--prompt", "a red 7", "--negative-prompt", "a blue 1", *few]
    for option in ("--edges", "--control"):
        out = tmp_path / f"{option}.png"
        assert main(["sample", run, "--out", str(out), *words, option, str(runs / "photo.png")]) == 0
        assert main(["replay", str(out)]) == 0
    assert not np.array_equal(*(np.asarray(Image.open(tmp_path / f"--{name}.png")) for name in ("edges", "control")))
    photo = ["--edges", str(runs / "photo.png")]
    for where, given, message in (
        (run, words, "this model follows a picture"),
        (run, [*words, *photo, "--control", "x.png"], "give one of them"),
        (run, [*words, "--edges", "gone.png"], "does not exist"),
        (str(runs / "ldm"), [*words, *photo], "takes no control picture"),
    ):
        assert main(["sample", where, "--out", str(tmp_path / "x.png"), *given]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_it_goes_to_a_folder_of_diffusers(runs: Path, tmp_path: Path) -> None:
    assert main(["convert", str(runs / "control"), str(tmp_path / "out")]) == 0
    theirs = ControlNetModel.from_pretrained(tmp_path / "out").eval()
    ours = load(checkpoint(runs / "control")).system
    assert isinstance(ours, ControlNetDiffusion)
    x, tokens, seen = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16), torch.rand(2, 3, 32, 32)
    time = torch.tensor([3.0, 700.0])
    with torch.no_grad():
        down, middle = theirs(x, time, tokens, seen, return_dict=False)
        for mine, wanted in zip(ours.control(x, time, ControlCond(tokens=tokens, control=seen)), [*down, middle]):
            torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)


def test_models_without_such_a_network(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model, message in (
        (runs / "ae", "makes no samples"),
        (runs / "control", "has a Controlled"),
        (tmp_path, "is a folder: give the"),
    ):
        assert main(["train", "controlnet", "--model", str(model), "--out", str(tmp_path / "run"), *QUIET]) == 2
        assert message in capsys.readouterr().err
