"""Published pipelines through the command: pictures that replay, edits, and one sentence for what cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core.media.sheet import read_settings
from core.random import SamplingRNG
from image.published import hand_off, open_pipeline
from tests.app.test_bad_files import cut, without_a_key
from tests.support import pipelines
from tests.support.commands import Command, refused

WEIGHTS = "diffusion_pytorch_model.safetensors"
FAMILIES = ("stable_diffusion", "sdxl", "refiner", "sd3", "flux")
FEW = ["--prompt", "a red cat", "--size", "32", "--steps", "2"]


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A Stable Diffusion to spoil."""
    shutil.copytree(folders["stable_diffusion"], tmp_path / "pipeline")
    return tmp_path / "pipeline"


def rewrite(path: Path, changes: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sampled(command: Command, folder: Path, out: Path, *words: object) -> str:
    """Draw to a file -> what was printed on stderr."""
    status, printed, err = command("sample", folder, *FEW, *words, "--out", out)
    assert status == 0, err
    assert printed.startswith(str(out)) and out.is_file()
    return err


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_replays_to_the_byte(command: Command, folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    out = tmp_path / "x.png"
    assert not sampled(command, folders[family], out, "--negative-prompt", "a dog")
    assert Image.open(out).size == (32, 32)
    settings = read_settings(out)
    assert settings["size"] == [32] and settings["prompt"] == "a red cat" and settings["steps"] == 2
    status, printed, err = command("replay", out)
    assert (status, err) == (0, "") and "the same as x.png" in printed
    assert (tmp_path / "x-replay.png").read_bytes() == out.read_bytes()
    sampled(command, folders[family], tmp_path / "again.png", "--negative-prompt", "a dog")
    sampled(command, folders[family], tmp_path / "other.png", "--negative-prompt", "a dog", "--seed", 1)
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes() != (tmp_path / "other.png").read_bytes()


def test_height_and_width_are_given_apart(command: Command, folders: dict[str, Path], tmp_path: Path) -> None:
    sampled(command, folders["sdxl"], tmp_path / "x.png", "--size", 32, 48)
    assert Image.open(tmp_path / "x.png").size == (48, 32)  # width first


def test_a_pipeline_that_has_changed_is_not_replayed(command: Command, copy: Path, tmp_path: Path) -> None:
    sampled(command, copy, tmp_path / "x.png")
    rewrite(copy / "scheduler" / "scheduler_config.json", {"beta_end": 0.013})
    refused(command("replay", tmp_path / "x.png"), "its content differs")
    assert not (tmp_path / "x-replay.png").exists()


def test_a_refiner_ends_what_a_base_began(command: Command, folders: dict[str, Path], tmp_path: Path) -> None:
    base, refiner = folders["sdxl"], folders["refiner"]
    words = ["--steps", 6, "--guidance", 3, "--negative-prompt", "a dog"]
    assert not sampled(command, base, tmp_path / "x.png", *words, "--refiner", refiner)
    asked, avoid = {"caption": ["a red cat"]}, {"caption": ["a dog"]}
    pair = open_pipeline(base, 32), open_pipeline(refiner, 32)
    code = hand_off(*pair, SamplingRNG(0, [0]), asked, steps=6, guidance=3.0, avoid=avoid)
    expected = (pair[0].system.decode(code)[0].clamp(-1, 1).permute(1, 2, 0) + 1) * 127.5
    assert np.abs(seen(tmp_path / "x.png") - expected.numpy()).max() <= 1
    sampled(command, base, tmp_path / "alone.png", *words)
    assert (seen(tmp_path / "alone.png") != seen(tmp_path / "x.png")).any()
    status, printed, _ = command("replay", tmp_path / "x.png")
    assert status == 0 and "the same as x.png" in printed
    for options, wrong in (
        (["--steps", 1], "none of 1 steps"),
        (["--refiner", folders["sd3"]], "give their refiner"),
        (["--refiner", tmp_path / "nowhere"], "nowhere"),
    ):
        refused(command("sample", base, *FEW, "--refiner", refiner, *options, "--out", tmp_path / "y.png"), wrong)
    refused(command("sample", folders["flux"], *FEW, "--refiner", refiner, "--out", tmp_path / "y.png"), "refiner")
    assert not (tmp_path / "y.png").exists()


def test_a_controlnet_leads_a_pipeline(
    command: Command, folders: dict[str, Path], picture: Path, tmp_path: Path
) -> None:
    base = folders["stable_diffusion"]
    net = pipelines.controlnet(base, tmp_path / "net")
    out = tmp_path / "x.png"
    sampled(command, base, out, "--controlnet", f"{net}:0.5", "--control", picture)
    settings = read_settings(out)
    assert settings["controlnet"] == f"{net}:0.5" and settings["control"] == str(picture)
    status, printed, _ = command("replay", out)
    assert status == 0 and "the same as x.png" in printed
    sampled(command, base, tmp_path / "whole.png", "--controlnet", net, "--control", picture)
    sampled(command, base, tmp_path / "edges.png", "--controlnet", net, "--edges", picture)
    sampled(command, base, tmp_path / "alone.png")
    pictures = [seen(tmp_path / f"{name}.png") for name in ("x", "whole", "edges", "alone")]
    assert all((one != other).any() for i, one in enumerate(pictures) for other in pictures[:i])
    pipelines.controlnet(folders["sdxl"], tmp_path / "other")
    for folder, words, wrong in (
        (base, ["--controlnet", net], "name a photo with --edges"),
        (base, ["--controlnet", f"{net}:much", "--control", picture], "no weight"),
        (base, ["--controlnet", tmp_path / "other", "--control", picture], "made for the same base"),
        (base, ["--controlnet", base, "--control", picture], "config.json"),
        (base, ["--control", picture], "takes no control picture"),
        (folders["flux"], ["--controlnet", net, "--control", picture], "leads a U-Net"),
    ):
        refused(command("sample", folder, *FEW, *words, "--out", tmp_path / "y.png"), wrong)
    (net / "config.json").write_text((net / "config.json").read_text() + " ")
    refused(command("replay", out), str(net), "content differs")
    assert not (tmp_path / "y.png").exists()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of 32 x 32, nearly grey."""
    values = 128 + np.random.default_rng(0).integers(0, 9, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def seen(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def edited(command: Command, operation: str, folder: Path, picture: Path, name: str, *words: object) -> np.ndarray:
    out = picture.with_name(name)
    status, _, err = command("edit", operation, folder, picture, *FEW, *words, "--out", out)
    assert (status, err) == (0, "")
    return seen(out)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_edited(command: Command, folders: dict[str, Path], picture: Path, family: str) -> None:
    """No strength leaves what the autoencoder makes of the picture; what a mask keeps is kept to the pixel."""
    pipeline, whole = open_pipeline(folders[family], 32), torch.from_numpy(seen(picture)).float()
    code = pipeline.system.codec.encode(whole.permute(2, 0, 1)[None] / 127.5 - 1)
    kept = (pipeline.system.decode(code)[0].clamp(-1, 1).permute(1, 2, 0) + 1) * 127.5
    nothing = edited(command, "image-to-image", folders[family], picture, "nothing.png", "--strength", 0)
    assert np.abs(nothing - kept.numpy()).max() <= 1
    assert (edited(command, "image-to-image", folders[family], picture, "all.png", "--strength", 1) != nothing).any()
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[:, 16:] = 255
    Image.fromarray(mask).save(picture.with_name("mask.png"))
    painted = edited(
        command, "inpaint", folders[family], picture, "painted.png", "--mask", picture.with_name("mask.png")
    )
    assert (painted[:, :16] == seen(picture)[:, :16]).all() and (painted[:, 16:] != seen(picture)[:, 16:]).any()


def test_an_edit_begins_with_the_picture_s_own_noise(command: Command, folders: dict[str, Path], picture: Path) -> None:
    """The published sampler takes its first x for noise of deviation 1, which a noised picture is not."""
    words = ["--strength", 0.5, "--guidance", 2]
    usual = edited(command, "image-to-image", folders["stable_diffusion"], picture, "usual.png", *words)
    plain = edited(
        command, "image-to-image", folders["stable_diffusion"], picture, "plain.png", *words, "--sampler", "plms"
    )
    assert (usual == plain).all()


def spoilt_index(folder: Path) -> None:
    rewrite(folder / "model_index.json", {"_class_name": "KandinskyPipeline"})


def no_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def no_part(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def null_part(folder: Path) -> None:
    rewrite(folder / "model_index.json", {"text_encoder": [None, None]})


def cut_weights(folder: Path) -> None:
    cut(folder / "unet" / WEIGHTS)


def cut_text_encoder(folder: Path) -> None:
    cut(folder / "text_encoder" / "model.safetensors")


def missing_text_key(folder: Path) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if name.endswith("final_layer_norm.weight"))]
    save_file(tensors, file, {"format": "pt"})


def missing_key(folder: Path) -> None:
    without_a_key(folder / "unet" / WEIGHTS)


def no_weights(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).unlink()


def other_scheduler(folder: Path) -> None:
    rewrite(folder / "scheduler" / "scheduler_config.json", {"_class_name": "KarrasVeScheduler"})


def no_scheduler(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").unlink()


def no_vocabulary(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


SPOILT: Mapping[Callable[[Path], None], tuple[str, ...]] = {
    spoilt_index: ("KandinskyPipeline", "StableDiffusionPipeline"),
    no_index: ("model_index.json",),
    no_part: ("has no vae",),
    null_part: ("has no text_encoder",),
    cut_weights: ("cut short or damaged", f"unet/{WEIGHTS}"),
    cut_text_encoder: ("/text_encoder", "cut short"),
    missing_text_key: ("final_layer_norm.weight is missing",),
    missing_key: ("missing mid_block.resnets.0.conv1.weight",),
    no_weights: ("unet",),
    other_scheduler: ("KarrasVeScheduler", "PNDMScheduler"),
    no_scheduler: ("scheduler_config.json",),
    no_vocabulary: ("has no tokenizer",),
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_folders_that_cannot_be_used(
    command: Command, copy: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(copy)
    refused(command("sample", copy, *FEW, "--out", tmp_path / "x.png"), *SPOILT[spoil])
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "33"], ["33 x 33"]),
        (["--size", "32", "31"], ["32 x 31"]),
        (["--size", "0"], ["0 x 0"]),
        (["--size", "-32"], ["-32"]),
        (["--size", "1", "2", "3"], ["--size"]),
        (["--guidance", "nan"], ["guidance"]),
        (["--guidance", "inf"], ["guidance"]),
        (["--steps", "0"], ["at least 1"]),
        (["--average", "ema"], ["no averages"]),
        (["--lora", "nowhere.safetensors"], ["nowhere.safetensors"]),
    ],
    ids=" ".join,
)
def test_requests_that_cannot_be_met(
    command: Command, folders: dict[str, Path], tmp_path: Path, options: list[str], words: list[str]
) -> None:
    refused(command("sample", folders["stable_diffusion"], *FEW, *options, "--out", tmp_path / "x.png"), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_of_ten_thousand_words_is_truncated_with_a_warning(
    command: Command, folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    """One line for each encoder says where its text ends; the picture is that of what was read."""
    prompt = "red cat " * 5000
    err = sampled(command, folders[family], tmp_path / "x.png", "--prompt", prompt)
    lines = err.splitlines()
    assert lines and all(line.startswith("langevin: the prompt is longer than this model reads") for line in lines)
    assert all("red cat" in line and len(line) < 300 for line in lines)
    assert Image.open(tmp_path / "x.png").size == (32, 32)
    read = "red cat " * 5001  # what was cut off is longer, what was read is the same
    sampled(command, folders[family], tmp_path / "y.png", "--prompt", read)
    assert (np.asarray(Image.open(tmp_path / "x.png")) == np.asarray(Image.open(tmp_path / "y.png"))).all()
