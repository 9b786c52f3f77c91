"""The LoRA recipe on a tiny run: it learns, leaves the model alone, samples, and goes to files other programs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from app.main import main
from core.cond import Cond
from core.recipe import build, load
from core.systems.lora import LoRADiffusion
from core.weights.lora import load as load_lora
from tests.support.runs import QUIET, checkpoint, text_to_image


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder, a text-to-image model in its code and a LoRA on it, each trained for a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    text_to_image(folder)
    learn = ["--model", str(folder / "ldm"), "--rank", "2", "--alpha", "4", "--batch", "8", "--steps", "6"]
    learn += ["--lr", "0.5"]  # of which the first steps take a share only
    assert main(["train", "lora", "--out", str(folder / "lora"), *learn, *QUIET]) == 0
    return folder


def test_only_the_lora_is_saved_and_it_has_learned(runs: Path) -> None:
    path = checkpoint(runs / "lora")
    tensors = load_file(path)
    assert path.stat().st_size < checkpoint(runs / "ldm").stat().st_size / 4
    assert all("lora." in name for name in tensors if name.startswith(("model/", "ema/ema", "optimizer/")))
    assert any(bool(value.any()) for name, value in tensors.items() if name.endswith(".up"))
    loaded, base = load(path), load(checkpoint(runs / "ldm"))
    assert isinstance(loaded.system, LoRADiffusion)
    own = base.system.denoiser.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.system.denoiser.state_dict().items())


def test_a_lora_run_samples_and_goes_on(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--count", "2", "--steps", "1", "--prompt", "a red 7"]
    assert main(["sample", str(runs / "lora"), "--out", str(tmp_path / "with.png"), *words]) == 0
    assert main(["sample", str(runs / "ldm"), "--out", str(tmp_path / "without.png"), *words]) == 0
    pictures = [np.asarray(Image.open(tmp_path / f"{name}.png"), int) for name in ("with", "without")]
    assert np.abs(pictures[0] - pictures[1]).max() > 5
    assert main(["inspect", str(runs / "lora")]) == 0
    assert "checkpoint of image.recipes.lora.tiny" in capsys.readouterr().out


def test_the_lora_goes_to_files(runs: Path, tmp_path: Path) -> None:
    net = load(checkpoint(runs / "ldm")).system.denoiser.net
    trained = load(checkpoint(runs / "lora")).system
    assert isinstance(trained, LoRADiffusion)
    for to, start in (("diffusers", "unet."), ("original", "lora_unet_")):
        out = tmp_path / f"{to}.safetensors"
        assert main(["convert", str(runs / "lora"), str(out), "--to", to]) == 0
        assert all(name.startswith(start) for name in load_file(out))
        found = dict(load_lora(out, net).items())
        for name, (part,) in trained.lora.items():
            whole = torch.zeros(len(part.up), part.down[0].numel())
            for piece in found[name]:
                whole[piece.start : piece.stop] += piece.matrix().detach().flatten(1)
            torch.testing.assert_close(whole, part.matrix().detach().flatten(1), rtol=0, atol=1e-6)
    assert main(["convert", str(runs / "lora"), str(tmp_path / "folder")]) == 2


def test_sampling_with_lora_files(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A LoRA applied from a file is the LoRA of the run; with weight 0 it is not there; the picture replays."""
    file = tmp_path / "style.safetensors"
    assert main(["convert", str(runs / "lora"), str(file)]) == 0
    words = ["--count", "2", "--steps", "2", "--prompt", "a red 7"]

    def drawn(folder: str, *more: str) -> np.ndarray:
        picture = tmp_path / f"{folder}{len(more)}.png"
        assert main(["sample", str(runs / folder), "--out", str(picture), *words, *more]) == 0
        return np.asarray(Image.open(picture), int)

    plain, run, with_lora = drawn("ldm"), drawn("lora"), drawn("ldm", "--lora", str(file))
    assert np.abs(plain - run).max() > 1 >= np.abs(with_lora - run).max()
    assert np.array_equal(drawn("ldm", "--lora", f"{file}:0", f"{file}:-0.0"), plain)
    assert main(["replay", str(tmp_path / "ldm2.png")]) == 0
    for wrong, output in (("gone.safetensors", "does not exist"), (f"{file}:much", "'much' is no weight")):
        assert main(["sample", str(runs / "ldm"), "--out", str(tmp_path / "x.png"), "--lora", wrong]) == 2
        assert output in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_a_model_goes_to_folders_that_diffusers_reads(runs: Path, tmp_path: Path) -> None:
    assert main(["convert", str(runs / "ldm"), str(tmp_path / "out")]) == 0
    system = load(checkpoint(runs / "ldm")).system
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet").eval()
    vae = AutoencoderKL.from_pretrained(tmp_path / "out" / "vae").eval()
    x, tokens = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    with torch.no_grad():
        wanted = unet(x, torch.tensor([3, 700]), tokens).sample
        output = system.denoiser.net(x, torch.tensor([3.0, 700.0]), Cond(tokens=tokens))
        torch.testing.assert_close(output, wanted, rtol=0, atol=1e-5)
        mean, deviation = (torch.tensor(vae.config[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
        decoded = vae.decode(x * deviation + mean).sample
        torch.testing.assert_close(system.codec.decode(x), decoded, rtol=0, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_pictures_of_your_own(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32), (30 * number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a red square")
    recipe = build(
        "image.recipes.lora.tiny", {"model": str(runs / "ldm"), "data": str(folder), "rank": 1, "batch": 2, "steps": 1}
    )
    data, held_out = recipe.data()
    assert held_out is not None and len(data) + len(held_out) == 8
    assert data.get(range(1))["x"].shape == (1, 3, 32, 32)
    assert recipe.prompts.default(0, [0]) == {"caption": ["a red square"]}


def test_a_model_that_lies_elsewhere(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The LoRA's checkpoint still says what it is, and in one sentence what is missing."""
    (runs / "ldm").rename(runs / "moved")
    try:
        assert main(["inspect", str(runs / "lora")]) == 0
        output = capsys.readouterr().out
        assert "checkpoint of image.recipes.lora.tiny" in output and "does not exist" in output
        assert main(["sample", str(runs / "lora"), "--out", str(tmp_path / "x.png")]) == 2
        assert "does not exist" in capsys.readouterr().err
    finally:
        (runs / "moved").rename(runs / "ldm")
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_there(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "lora", "--model", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run"), *QUIET]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["train", "lora", "--model", str(runs / "ae"), "--out", str(tmp_path / "run"), *QUIET]) == 2
    assert "makes no samples" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))
