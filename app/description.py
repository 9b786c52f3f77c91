"""What a file or folder of weights is, by the header alone, in rows of a name and a value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.recipe import build, read_header
from core.systems.diffusion import Diffusion
from core.weights.checkpoint import KEY, CheckpointError, outline
from core.weights.detect import Found, detect, parameters, precision, split

WEIGHTS = ("diffusion_pytorch_model", "model", "adapter_model", "pytorch_lora_weights")
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
MEANINGS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow velocity"}


def described(path: Path) -> list[dict[str, str]]:
    """The rows of every part of what lies at ``path``."""
    if not path.is_dir():
        return file_rows(path)
    if (path / "model_index.json").exists():
        scheduler = scheduler_rows(path)
        parts = [part for part in sorted(path.iterdir()) if part.is_dir() and weights_in(part)]
        if not parts:
            raise CheckpointError(refusal(path, sorted(path.iterdir())))
        networks = ("unet", "transformer")
        return [folder_rows(part) | (scheduler if part.name in networks else {}) for part in parts]
    if (path / "config.json").exists() or weights_in(path):
        return [folder_rows(path)]
    runs = sorted([*path.glob("*.safetensors"), *path.glob("checkpoints/*.safetensors")])
    if not runs:
        raise CheckpointError(refusal(path, [path]))
    return file_rows(runs[-1])


def file_rows(path: Path) -> list[dict[str, str]]:
    """The rows of each part of one file."""
    words, tensors = outline(path)
    if KEY in words:
        return [own_rows(path, tensors)]
    parts, strange = split(tensors)
    rows = []
    for prefix, part in parts.items():
        head = {"file": str(path), "part": prefix.removesuffix(".")}
        rows.append(head | part_rows(detect(part), part, whole=bool(prefix)))
    for row in rows:
        # Marks that files made after Stability's own leave for their readers.
        if "v_pred" in tensors and row["part"] == "model.diffusion_model":
            row["prediction"] = "v"
    if strange:
        rows[-1]["unknown"] = f"{len(strange)} tensors, such as {strange[0]}"
    return rows


def folder_rows(folder: Path) -> dict[str, str]:
    """The rows of a folder with one network, whose weights may be in several files."""
    files = weights_in(folder)
    if not files:
        raise CheckpointError(refusal(folder, [folder]))
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= outline(file).tensors
    return {"folder": str(folder)} | part_rows(detect(tensors), tensors)


def part_rows(found: Found, tensors: Mapping[str, Tensor], whole: bool = False) -> dict[str, str]:
    """The rows of one network."""
    return {
        "model": found.model,
        "layout": f"{found.layout}, in a file of a whole system" if whole else found.layout,
        "prediction": found.prediction,
        "schedule": found.schedule,
        "precision": precision(tensors),
        "parameters": f"{parameters(tensors):,}",
    }


def own_rows(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The rows of one of our checkpoints. Its system is built without memory, so that it can say what it is."""
    metadata = read_header(path)
    names = list(metadata["averages"])
    rows = {
        "file": str(path),
        "model": f"checkpoint of {metadata['recipe']}",
        "layout": "Langevin",
        "step": str(metadata.get("step", "")),
        "averages": ", ".join(names),
        "precision": precision(tensors),
        "parameters": f"{parameters({n: v for n, v in tensors.items() if n.startswith('model/')}):,}",
    }
    try:
        recipe = build(metadata["recipe"], metadata["arguments"])
        with torch.device("meta"):
            system = recipe.system()
    except ValueError as error:  # a recipe of another version, or a LoRA whose model lies elsewhere
        return rows | {"cannot open": str(error)}
    if isinstance(system, Diffusion):
        rows["network"] = type(system.denoiser.net).__name__
        rows["prediction"] = type(system.denoiser.prediction).__name__
        rows["schedule"] = type(system.denoiser.schedule).__name__
    return rows


def scheduler_rows(folder: Path) -> dict[str, str]:
    """What the scheduler of a pipeline says of prediction and schedule."""
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.exists():
        return {}
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} cannot be read as JSON: get it again") from error
    if config.get("_class_name", "").startswith("FlowMatch"):
        shift = "the resolution" if config.get("use_dynamic_shifting") else f"{config.get('shift', 1.0):g}"
        return {"prediction": "flow velocity", "schedule": f"straight path, shifted by {shift}"}
    named = str(config.get("beta_schedule", "linear")).replace("_", "-")
    table = f"{named} table of {config.get('num_train_timesteps', 1000)}"
    meaning = config.get("prediction_type", "epsilon")
    return {"prediction": MEANINGS.get(meaning, meaning), "schedule": table}


def weights_in(folder: Path) -> list[Path]:
    """The files of a folder's weights: one file or all its shards; of several variants, the one without a name."""
    variants: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name.split(".")[0].split("-0")[0] in WEIGHTS:
            variants.setdefault(re.sub(r"-\d+-of-\d+$", "", file.stem), []).append(file)
    return variants[min(variants, key=len)] if variants else []


def refusal(folder: Path, within: Sequence[Path]) -> str:
    """Why a folder cannot be described."""
    pickled = [file for part in within if part.is_dir() for file in part.iterdir() if file.suffix in PICKLES]
    if pickled:
        return f"{pickled[0]} is a pickle, which could run code when opened: convert it to safetensors"
    return f"{folder} holds no weights: give a .safetensors file, a folder of diffusers, or a run's folder"
