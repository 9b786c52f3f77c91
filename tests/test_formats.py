"""Files of format 0 (tests/files/format0) open, give the samples that they gave, and go on as they went on."""

from __future__ import annotations

import dataclasses
import json
import lzma
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image, PngImagePlugin
from torch import Tensor

from app.main import main as langevin
from core.random import SamplingRNG
from core.recipe import build, load, read_header
from core.sample.step import run
from core.train.loop import train
from core.train.run import Run
from core.train.state import newest, prepare, resume
from core.weights.checkpoint import read, read_metadata
from image.latent import open_autoencoder
from motion.files import read as read_motion

STORED = Path(__file__).parent / "files" / "format0"
SEED = 7
LABELS = {"label": torch.tensor([3, 8])}
CAPTION = {"caption": ["a red 7 on white"]}
MOVE = {"caption": ["a person walks forward"], "valid": torch.ones(1, 8, dtype=torch.bool)}
CONTROL = {"control": torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)}
CONDITIONS: dict[str, Mapping[str, Any]] = {
    "ddpm": {},
    "edm": LABELS,
    "dit": LABELS,
    "score_sde": {},
    "ldm": CAPTION,
    "flux": CAPTION,
    "sd3": CAPTION,
    "lora": CAPTION,
    "controlnet": CAPTION | CONTROL,
    "mdm": MOVE,
    "motiondiffuse": MOVE,
    "motion_flow": MOVE,
}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, unpacked."""
    folder = tmp_path_factory.mktemp("format0")
    shutil.copytree(STORED, folder, dirs_exist_ok=True)
    for packed in folder.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    return folder


@pytest.fixture
def here(old: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, from which the paths inside the files start."""
    monkeypatch.chdir(old)
    return old


@torch.no_grad()
def sampled(path: Path, conditions: Mapping[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Three steps of the recipe's own sampler."""
    loaded = load(path)
    system, sampling = loaded.diffusion.to(dtype), loaded.sampling
    conditions = {key: value.to(dtype) if key == "control" else value for key, value in conditions.items()}
    steps = system.sample(
        SamplingRNG(SEED, range(shape[0])),
        loaded.shape if path.stem not in ("mdm", "motiondiffuse", "motion_flow") else shape[1:],
        conditions,
        dataclasses.replace(sampling, steps=3),
    )
    return system.decode(run(steps))


@torch.no_grad()
def decoded(path: Path, dtype: torch.dtype) -> Tensor:
    """A fixed picture's code, and what becomes of it."""
    autoencoder = open_autoencoder(path).autoencoder.to(dtype)
    picture = torch.linspace(-1, 1, 3 * 32 * 32, dtype=dtype).view(1, 3, 32, 32)
    code = autoencoder.encode(picture).mean
    return torch.cat([code.flatten(), autoencoder.decode(code).flatten()])


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_model_gives_the_same_samples(name: str, here: Path) -> None:
    path = here / f"{name}.safetensors"
    assert read_metadata(path)["format"] == 0
    wanted = read(here / "samples.safetensors", f"{name}/")["float64"]
    found = sampled(path, CONDITIONS[name], tuple(wanted.shape), torch.float64)
    assert found.dtype == torch.float64 and (found - wanted).abs().max() < 1e-6


def test_an_autoencoder_gives_the_same_picture(here: Path) -> None:
    wanted = read(here / "samples.safetensors", "autoencoder/")["float64"]
    assert (decoded(here / "autoencoder.safetensors", torch.float64) - wanted).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["autoencoder", *CONDITIONS])
def test_the_whole_state_of_a_run_fits(name: str, here: Path) -> None:
    path = here / f"{name}.safetensors"
    header = read_header(path)
    recipe = build(header["recipe"], header["arguments"])
    state = prepare(recipe, Accelerator(cpu=True))
    resume(state, recipe, path)
    assert state.step == 2 and all(float(moments["step"]) == 0 for moments in state.adam.state.values())
    stored = read(path, "model/")
    sums = [
        sorted(float(value.double().sum()) for value in each.values()) for each in (state.system.state_dict(), stored)
    ]
    assert sums[0] == sums[1]


@pytest.mark.parametrize("name", ["run-edm", "run-lora"])
def test_a_killed_run_ends_as_it_would_have(name: str, here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / name, tmp_path / name)
    last = newest(tmp_path / name)
    assert last is not None and read_metadata(last)["step"] == 4
    header = read_header(last)
    recipe = build(header["recipe"], header["arguments"])
    quiet = Run(
        tmp_path / name, log_every=1, save_every=4, validate_every=0, sample_every=0, tensorboard=False, cpu=True
    )
    # The data without the part that is held out, which would be encoded for nothing.
    with torch.random.fork_rng():
        end = read(train(dataclasses.replace(recipe, data=lambda: (recipe.data()[0], None)), quiet))
    wanted = read(here / "samples.safetensors", f"{name}/")
    found = {key: sketch(value) for key, value in end.items()}
    assert float(end["ema/step"]) == 8
    apart = sorted(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-6))
        for a, b in zip(ordered(found), ordered(wanted), strict=True)
    )
    # What has no gradient but rounding's differs from one machine to another, as a bias before a norm.
    assert apart[int(0.9 * len(apart))] < 1e-4 and apart[-1] < 0.3
    log = (tmp_path / name / "log.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in log]
    assert [event["step"] for event in events if "loss" in event] == list(range(1, 9))


def ordered(sketches: Mapping[str, Tensor]) -> list[Tensor]:
    return sorted(sketches.values(), key=lambda value: (float(value[0]), float(value[1])))


def sketch(value: Tensor) -> Tensor:
    """Two random projections (2,) of a tensor."""
    flat = value.double().flatten()
    return torch.randn(2, len(flat), dtype=torch.float64, generator=torch.Generator().manual_seed(SEED)) @ flat


@pytest.mark.parametrize(("name", "limit"), [("edm", 0.1), ("mdm", 1.0)])
def test_a_picture_is_replayed(name: str, limit: float, here: Path) -> None:
    langevin(["replay", f"{name}.png"])  # which says that it differs where the machine rounds in another manner
    again = here / f"{name}-replay.png"
    one, other = (np.asarray(Image.open(file), dtype=np.float32) for file in (here / f"{name}.png", again))
    assert one.shape == other.shape and np.abs(one - other).mean() < limit


def test_the_same_picture_in_todays_format_is_the_same(here: Path) -> None:
    """The pictures are compared, for the settings in them are not written as they were."""
    langevin(["replay", "edm.png"])
    note = PngImagePlugin.PngInfo()
    with Image.open(here / "edm.png") as made_then, Image.open(here / "edm-replay.png") as made_here:
        note.add_text("langevin", made_then.info["langevin"])
        made_here.save(here / "old.png", pnginfo=note)
        made_here.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(here / "other.png", pnginfo=note)
    assert langevin(["replay", "old.png"]) == 0
    assert (here / "old.png").read_bytes() != (here / "old-replay.png").read_bytes()
    assert langevin(["replay", "old-replay.png"]) == 0
    assert langevin(["replay", "other.png"]) == 2


def test_recordings_are_read(here: Path) -> None:
    assert read_motion(here / "mdm.npz").caption == "a person walks forward"
    for name, wanted in read(here / "samples.safetensors", "read/").items():
        found = read_motion(here / name).joints
        assert found.shape == wanted.shape and (found - wanted).abs().max() < 1e-5
