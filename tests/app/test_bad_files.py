"""Files that cannot be used: one clear sentence, exit status 2, and nothing half-written, whatever the command."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.support.commands import ROOT, Command, environment, refused
from tests.support.text_unets import SD1

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of diffusers with a small U-Net."""
    folder = tmp_path_factory.mktemp("unet")
    torch.manual_seed(0)
    UNet2DConditionModel(**SD1).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(unet: Path, tmp_path: Path) -> Path:
    shutil.copytree(unet, tmp_path / "unet")
    return tmp_path / "unet"


Spoil = Callable[[Path], None]


def cut(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


def cut_in_the_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(4096))


def pickled(file: Path) -> None:
    torch.save({"conv_in.weight": torch.ones(2)}, file)


def pickled_of_old(file: Path) -> None:
    file.write_bytes(pickle.dumps({"state_dict": [1.0]}))


def without_a_key(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop("mid_block.resnets.0.conv1.weight")
    save_file(tensors, file)


def with_a_key(file: Path) -> None:
    save_file(load_file(file) | {"somebody.else": torch.ones(2)}, file)


def misshapen(file: Path) -> None:
    save_file(load_file(file) | {"conv_in.weight": torch.ones(32, 7, 3, 3)}, file)


CUT, PICKLE = "cut short or damaged", "pickle"
BROKEN: dict[Spoil, str] = {
    cut: CUT,
    cut_in_the_header: CUT,
    emptied: CUT,
    garbage: CUT,
    pickled: PICKLE,
    pickled_of_old: PICKLE,
}
WRONG: dict[Spoil, str] = {
    without_a_key: "missing mid_block.resnets.0.conv1.weight",
    with_a_key: "unknown somebody.else",
    misshapen: "(32, 7, 3, 3) instead of (32, 4, 3, 3)",
}


def left(folder: Path) -> list[str]:
    """What lies in a folder beside what the test put there."""
    return sorted(path.name for path in folder.iterdir() if path.name != "unet")


@pytest.mark.parametrize("spoil", BROKEN, ids=lambda spoil: spoil.__name__)
def test_broken_files(command: Command, copy: Path, tmp_path: Path, spoil: Spoil) -> None:
    spoil(copy / WEIGHTS)
    for what in (copy, copy / WEIGHTS):
        refused(command("inspect", what), BROKEN[spoil], WEIGHTS)
        refused(command("convert", what, tmp_path / "out.safetensors", "--to", "original"), BROKEN[spoil])
        refused(command("convert", what, tmp_path / "out", "--to", "diffusers"), BROKEN[spoil])
    refused(command("sample", copy / WEIGHTS, "--out", tmp_path / "x.png"), BROKEN[spoil])
    assert not left(tmp_path)


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_wrong_tensors(command: Command, copy: Path, tmp_path: Path, spoil: Spoil) -> None:
    spoil(copy / WEIGHTS)
    refused(command("convert", copy, tmp_path / "out.safetensors", "--to", "original"), WRONG[spoil])
    refused(command("convert", copy, tmp_path / "out", "--to", "diffusers", "--dtype", "float16"), WRONG[spoil])
    refused(command("sample", copy / WEIGHTS, "--out", tmp_path / "x.png"), "not a checkpoint of Langevin")
    assert not left(tmp_path)
    status, out, _ = command("inspect", copy)
    assert status == 0 and "U-Net" in out


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt"])
def test_folders_with_a_pickle_only(command: Command, copy: Path, tmp_path: Path, name: str) -> None:
    (copy / WEIGHTS).unlink()
    pickled(copy / name)
    refused(command("inspect", copy), PICKLE, name)
    refused(command("convert", copy, tmp_path / "out.safetensors", "--to", "original"), PICKLE, name)
    refused(command("inspect", copy / name), PICKLE)
    refused(command("sample", copy / name, "--out", tmp_path / "x.png"), PICKLE)
    assert not left(tmp_path)


def test_another_architecture_than_the_configuration_says(command: Command, copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 48}))
    refused(command("convert", copy, tmp_path / "out.safetensors", "--to", "original"), "instead of")
    (copy / "config.json").write_text(json.dumps(config | {"act_fn": "gelu"}))
    refused(command("convert", copy, tmp_path / "out.safetensors", "--to", "original"), "act_fn")
    (copy / "config.json").write_text("{")
    refused(command("convert", copy, tmp_path / "out.safetensors", "--to", "original"), "config.json")
    assert not left(tmp_path)


def test_files_that_are_not_converted(command: Command, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    save_file({"weight": torch.ones(2)}, tmp_path / "strange.safetensors")
    refused(command("convert", tmp_path / "strange.safetensors", out, "--to", "original"), "not known here")
    save_file({"unet.conv_in.lora_A.weight": torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    refused(command("convert", tmp_path / "lora.safetensors", out, "--to", "original"), "LoRA")
    whole = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2), "somebody.else": torch.ones(2)}
    save_file(whole, tmp_path / "whole.safetensors")
    refused(command("convert", tmp_path / "whole.safetensors", out, "--to", "diffusers"), "somebody.else")
    own = next(run_folder.glob("*/*.safetensors"))
    refused(command("convert", own, out, "--to", "original"), "checkpoint of Langevin")
    refused(command("convert", own, tmp_path / "out", "--to", "diffusers"), "has a UNet")
    refused(command("convert", tmp_path / "nowhere.safetensors", out, "--to", "original"), "does not exist")
    refused(command("inspect", tmp_path / "nowhere.safetensors"), "does not exist")
    (tmp_path / "empty").mkdir()
    refused(command("inspect", tmp_path / "empty"), "holds no weights")
    refused(command("convert", tmp_path / "empty", out, "--to", "original"), "holds no weights")
    assert not out.exists()


def test_a_full_disk_leaves_nothing_half_written(unet: Path, tmp_path: Path) -> None:
    """Files may not grow beyond 20 kB here, as on a disk that is full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    for words in (["out.safetensors", "--to", "original"], ["out", "--to", "diffusers"]):
        done = subprocess.run(
            [sys.executable, "-m", "app.main", "convert", str(unet), str(tmp_path / words[0]), *words[1:]],
            cwd=ROOT,
            env=environment(),
            preexec_fn=limit,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("langevin: ") and "free some space" in done.stderr
        assert not left(tmp_path)


def test_words_that_mean_nothing(command: Command, unet: Path, tmp_path: Path) -> None:
    refused(command("convert", unet, tmp_path / "out", "--to", "keras"), "--to")
    refused(command("convert", unet, tmp_path / "out", "--dtype", "float17"), "'float17'", "'float16'")
    refused(command("convert", unet), "out")
    refused(command("inspect"), "what")
    assert not left(tmp_path)


def test_a_folder_that_cannot_be_written(command: Command, unet: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(command("convert", unet, tmp_path / "file" / "out.safetensors", "--to", "original"), "file")
    refused(command("convert", unet, tmp_path / "file" / "out", "--to", "diffusers"), "file")
    assert left(tmp_path) == ["file"]
