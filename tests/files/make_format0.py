"""Makes tests/files/format0 with the code of commit 6e078cd: run it in a checkout of that commit, whose
modules it imports by their names of then.

cd OLD && PYTHONPATH=$PWD python .../tests/files/make_format0.py .../tests/files/format0

A checkpoint is a real one after two steps of training. So that every tensor shows in the samples, all weights are then
moved by random numbers; so that the files are small, only a few numbers of each large tensor are not zero, they have 8
bits, the weights are those of the average, and the optimizer's moments are zero.

Two runs were killed after step 4 of 8: ``run-lora`` as it was, with the end of the same run that was not killed, and
``run-edm`` with its numbers made fewer in the same manner, with the end that this code comes to from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import core.train.loop
from core.checkpoint import read, read_metadata, write
from core.random import Noise
from core.recipe import Recipe, build, load
from core.sample.step import run as walk
from core.train import Run, train
from image.latent import open_autoencoder
from motion.files import read as read_motion

SEED = 7
CAPTIONS = {"caption": ["a red 7 on white"]}
MOVES = {"caption": ["a person walks forward"], "valid": torch.ones(1, 8, dtype=torch.bool)}
LABELS = {"label": torch.tensor([3, 8])}
AE, LDM = "autoencoder.safetensors", "ldm.safetensors"
DIGITS = {"count": 16, "batch": 2, "steps": 2, "text_width": 8}
CLIPS = {"count": 4, "batch": 2, "steps": 2, "text_width": 8, "depth": 1}
# name: recipe, arguments, what is asked for, the shape of one x if not the recipe's
MODELS: dict[str, tuple[str, dict[str, object], dict[str, Any], tuple[int, ...] | None]] = {
    "ddpm": ("image.recipes.ddpm.tiny", {"width": 8, "batch": 2, "steps": 2}, {}, None),
    "edm": ("image.recipes.edm.tiny", {"width": 8, "batch": 2, "steps": 2}, LABELS, None),
    "dit": ("image.recipes.dit.tiny", {"width": 32, "depth": 2, "batch": 2, "steps": 2}, LABELS, None),
    "score_sde": ("image.recipes.score_sde.tiny_ve", {"width": 8, "batch": 2, "steps": 2}, {}, None),
    "ldm": ("image.recipes.ldm.tiny", {"autoencoder": AE, "width": 8, **DIGITS}, CAPTIONS, None),
    "flux": (
        "image.recipes.flux.tiny",
        {"autoencoder": AE, "heads": 1, "doubles": 1, "singles": 1, **DIGITS},
        CAPTIONS,
        None,
    ),
    "sd3": ("image.recipes.sd3.tiny", {"autoencoder": AE, "heads": 1, "depth": 2, **DIGITS}, CAPTIONS, None),
    "lora": ("image.recipes.lora.tiny", {"model": LDM, "rank": 2, "batch": 2, "steps": 2}, CAPTIONS, None),
    "controlnet": (
        "image.recipes.controlnet.tiny",
        {"model": LDM, "batch": 2, "steps": 2},
        {**CAPTIONS, "control": torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)},
        None,
    ),
    "mdm": ("motion.recipes.mdm.tiny", {"width": 8, **CLIPS}, MOVES, (8, 263)),
    "motiondiffuse": ("motion.recipes.motiondiffuse.tiny", {"width": 8, **CLIPS}, MOVES, (8, 263)),
    "motion_flow": ("motion.recipes.motion_flow.tiny", {"width": 16, **CLIPS}, MOVES, (8, 263)),
}
RUNS: dict[str, tuple[str, dict[str, object]]] = {
    "run-lora": ("image.recipes.lora.tiny", {"model": LDM, "rank": 1, "batch": 4, "steps": 8}),
    "run-edm": ("image.recipes.edm.tiny", {"width": 8, "batch": 4, "steps": 8, "lr": 1e-3}),
}
QUIET = Run(Path(), log=0, save=0, hold_out=0, show=0, tensorboard=False, cpu=True)


def trained(name: str, arguments: dict[str, object], path: Path) -> None:
    """Two steps, and then weights by which every tensor counts."""
    with tempfile.TemporaryDirectory() as folder:
        last = train(build(name, arguments), dataclasses.replace(QUIET, folder=Path(folder)))
        metadata, tensors = read_metadata(last), {key: value.clone() for key, value in read(last).items()}
    generator = torch.Generator().manual_seed(SEED)
    for key in [key for key in tensors if key.startswith("ema/ema/")]:
        value = thinned(tensors[key], generator) if tensors[key].is_floating_point() else tensors[key]
        tensors[key] = tensors[f"model/{key[8:]}"] = value
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            value.zero_()
    write(path, tensors, metadata)


def thinned(value: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers of 8 bits near a tensor's own; of a large one, the 128 largest or one in 100."""
    moved = value + (0.05 + 0.2 * value.std(correction=0)) * torch.randn(value.shape, generator=generator)
    if (kept := max(128, value.numel() // 100)) < value.numel():
        moved = torch.where(moved.abs() >= moved.abs().flatten().topk(kept)[0][-1], 2 * moved, 0.0)
    return moved.to(torch.float8_e4m3fn).to(value.dtype)


@torch.no_grad()
def sampled(path: Path, asked: dict[str, Any], shape: tuple[int, ...] | None, dtype: torch.dtype) -> Tensor:
    """Samples in three steps of the recipe's own sampler."""
    loaded = load(path)
    system, way = loaded.system.to(dtype), loaded.recipe.sampling
    asked = {key: value.to(dtype) if key == "control" else value for key, value in asked.items()}
    count = len(next(iter(asked.values()))) if asked else 2
    steps = system.sample(
        Noise(SEED, range(count)),
        shape or loaded.recipe.shape,
        asked,
        sampler=way.sampler,
        grid=way.grid,
        steps=3,
        guidance=way.guidance,
        guide=way.guide,
    )
    return system.decode(walk(steps))


@torch.no_grad()
def decoded(path: Path, dtype: torch.dtype) -> Tensor:
    """What an autoencoder makes of a fixed picture's code."""
    autoencoder = open_autoencoder(path).autoencoder.to(dtype)
    picture = torch.linspace(-1, 1, 3 * 32 * 32, dtype=dtype).view(1, 3, 32, 32)
    code = autoencoder.encode(picture).mean
    return torch.cat([code.flatten(), autoencoder.decode(code).flatten()])


def thin(path: Path) -> None:
    """Make the numbers in a checkpoint fewer; moments stay what moments can be."""
    generator, tensors = torch.Generator().manual_seed(SEED), {key: value.clone() for key, value in read(path).items()}
    for key in [key for key in tensors if key.startswith("model/") and tensors[key].is_floating_point()]:
        name, value = key[6:], thinned(tensors[key], generator)
        tensors[key] = tensors[f"ema/ema/{name}"] = value
        if f"optimizer/{name}/exp_avg" in tensors:
            tensors[f"optimizer/{name}/exp_avg"] = 2**-7 * value
            tensors[f"optimizer/{name}/exp_avg_sq"] = 2**-10 * (value**2 + 1)
    write(path, tensors, read_metadata(path))


def sketch(value: Tensor) -> Tensor:
    """Two random projections (2,) of a tensor."""
    flat = value.double().flatten()
    return torch.randn(2, len(flat), dtype=torch.float64, generator=torch.Generator().manual_seed(SEED)) @ flat


def digest(tensors: Sequence[Tensor]) -> str:
    """The SHA-256 of the bytes of some tensors."""
    return hashlib.sha256(b"".join(value.contiguous().numpy().tobytes() for value in tensors)).hexdigest()


def run_of(folder: Path) -> Run:
    return dataclasses.replace(QUIET, folder=folder, save=4, log=1)


def dies(recipe: Recipe, folder: Path) -> None:
    """Train, and be killed as soon as the first checkpoint is written."""
    save = core.train.loop.save

    def last(*given: Any) -> Path:
        save(*given)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    core.train.loop.save = last
    train(recipe, run_of(folder))


def main(out: Path) -> None:
    """Everything, from the working directory ``out``, so that paths in the files are names alone."""
    os.chdir(out)
    torch.set_num_threads(1)
    stored: dict[str, Tensor] = {}
    trained("image.recipes.autoencoder.tiny", {"count": 16, "batch": 2, "steps": 2}, Path(AE))
    for dtype in (torch.float64, torch.float32):
        stored[f"autoencoder/{dtype}".replace("torch.", "")] = decoded(Path(AE), dtype)
    for name, (recipe, arguments, asked, shape) in MODELS.items():
        path = Path(f"{name}.safetensors")
        trained(recipe, arguments, path)
        for dtype in (torch.float64, torch.float32):
            found = sampled(path, asked, shape, dtype)
            assert found.isfinite().all() and found.std() > 0.01 and found.dtype == dtype, (name, found.std())
            stored[f"{name}/{dtype}".replace("torch.", "")] = found
        print(name, path.stat().st_size, [float(found.std()), float(found.abs().max())], flush=True)

    hashes = {name: digest([value]) for name, value in stored.items()}
    for name, (recipe_name, arguments) in RUNS.items():
        subprocess.run([sys.executable, __file__, "--killed", name])
        (last,) = Path(name, "checkpoints").glob("*.safetensors")
        recipe = build(recipe_name, arguments)
        with tempfile.TemporaryDirectory() as folder:
            if name == "run-edm":
                thin(last)
                shutil.copytree(name, folder, dirs_exist_ok=True)
            end = read(train(recipe, run_of(Path(folder))))
            hashes[name] = digest([end[key] for key in sorted(end)])
            stored |= {f"{name}/{key}": sketch(value) for key, value in end.items()}
        assert last.name == "step-00000004.safetensors"

    from app.main import main as langevin

    langevin(["sample", "edm.safetensors", "--count", "4", "--steps", "4", "--seed", "3", "--out", "edm.png"])
    walking = ["--prompt", "a person walks forward", "--seconds", "1.5", "--steps", "2", "--count", "1", "--seed", "3"]
    langevin(["sample", "mdm.safetensors", *walking, "--out", "mdm.png"])
    langevin(["sample", "mdm.safetensors", *walking, "--out", "mdm.bvh"])
    langevin(["sample", "mdm.safetensors", *walking, "--out", "mdm.npz"])
    stored |= {f"read/{name}": read_motion(Path(name)).joints for name in ("mdm.bvh", "mdm.npz")}
    write(Path("samples.safetensors"), stored, {"recipe": "", "arguments": hashes, "averages": {}})
    for file in [*Path().rglob("*.safetensors"), Path("mdm.bvh")]:
        file.with_name(f"{file.name}.xz").write_bytes(lzma.compress(file.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
        file.unlink()
    print(json.dumps({str(file): file.stat().st_size for file in sorted(Path().rglob("*.*")) if file.is_file()}))


if __name__ == "__main__":
    if sys.argv[1] == "--killed":
        torch.set_num_threads(1)
        dies(build(*RUNS[sys.argv[2]]), Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
