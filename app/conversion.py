"""Reading, converting and writing the networks of whole files and folders; the options are in ``app/convert.py``."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.description import refusal, weights_in
from core.files import DRAFT
from core.train.state import newest
from core.weights.autoencoder import LatentConfig
from core.weights.checkpoint import KEY, CheckpointError, outline, read, write_streamed
from core.weights.conversion import DIFFUSERS, LATENTS, Source, Target, read_config
from core.weights.detect import WHOLE, detect, split

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
TEXTS = ("text_encoder", "text_encoder_2", "text_encoder_3")
CLIP_L, CLIP_G, T5 = (f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl"))
ONE, TWO = "conditioner.embedders.0.", "conditioner.embedders.1."


def own_checkpoint(path: Path) -> Path | None:
    """The checkpoint that is meant by one of ours, or by a run's folder; None for anything else."""
    if path.is_dir():
        path = newest(path) or path
    return path if path.is_file() and path.suffix == ".safetensors" and KEY in outline(path).words else None


def opened(path: Path) -> dict[str, Source]:
    """The networks of a file or folder, by the folder that each has in diffusers' layout; "" for a single one."""
    if not path.is_dir():
        return of_file(path)
    if (path / "model_index.json").exists():
        folders = [part for part in sorted(path.iterdir()) if part.is_dir() and weights_in(part)]
        if not folders:
            raise CheckpointError(refusal(path, sorted(path.iterdir())))
        return {part.name: of_folder(part) for part in folders if part.name != "safety_checker"}
    return {"": of_folder(path)}


def of_file(path: Path) -> dict[str, Source]:
    """The networks of one file. Raises CheckpointError for tensors of none of them."""
    shapes = outline(path).tensors
    parts, strange = split(shapes)
    if strange:
        raise CheckpointError(f"{path} holds {len(strange)} tensors of no part that is known, such as {strange[0]}")
    tensors, found = read(path), {}
    for prefix, part in parts.items():
        mapped = {name: tensors[prefix + name] for name in part}
        where = f"{path} ({prefix.removesuffix('.')})" if prefix else str(path)
        kind = detect(part)
        if not kind.kind or kind.kind == "lora":
            raise CheckpointError(f"{where} holds {kind.model}, which is not converted: `langevin inspect` says more")
        config = read_config(path.parent) if not prefix and kind.layout == DIFFUSERS else None
        name = "transformer" if kind.kind in ("mmdit", "flux") and prefix else WHOLE.get(prefix, "")
        alone = prefix == "cond_stage_model.model."
        act = "gelu" if prefix == CLIP_G or kind.layout == "OpenCLIP" else ""
        found[name] = Source(kind, mapped, config, where, act, shortened=alone)
    if "transformer" in found and found["transformer"].found.kind == "flux" and TEXTS[2] in found:
        found[TEXTS[1]] = found.pop(TEXTS[2])
    return found if len(found) > 1 else dict.fromkeys([""], next(iter(found.values())))


def of_folder(folder: Path) -> Source:
    """The network of one folder."""
    files = weights_in(folder)
    if not files:
        raise CheckpointError(refusal(folder, [folder]))
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read(file)
    found = detect(tensors)
    if not found.kind or found.kind == "lora":
        raise CheckpointError(f"{folder} holds {found.model}, which is not converted: `langevin inspect` says more")
    return Source(found, tensors, read_config(folder), str(folder))


def latents(
    to: str, scale: float | None, shift: float | None, family: str, sources: Mapping[str, Source]
) -> LatentConfig | None:
    """What an original autoencoder's file does not say: as asked, as its system's, or as all of four channels have."""
    autoencoders = [s for s in sources.values() if s.found.kind == "vae" and s.config is None]
    found = LATENTS.get(family or "sd", LATENTS["sd"])
    if scale is not None or shift is not None:
        chosen = found.scale if scale is None else scale
        found = dataclasses.replace(found, scale=chosen, shift=shift or 0.0)
    elif autoencoders and not family and to == DIFFUSERS:
        code = autoencoders[0].tensors["decoder.conv_in.weight"].shape[1]
        if code != 4:
            raise ValueError(
                f"{autoencoders[0].where} does not say how its latents are scaled: give --scale and --shift "
                "(1.5305 and 0.0609 for Stable Diffusion 3, 0.3611 and 0.1159 for Flux)"
            )
        print("Taking 0.18215 as the latents' scale, which is Stable Diffusion 1's and 2's; for SDXL give 0.13025.")
    return found


def prefixes(sources: Mapping[str, Source], family: str) -> dict[str, str]:
    """How the names of each part begin in a file. Readers know a single network by none, but a U-Net by its own."""
    if len(sources) == 1:
        (source,) = sources.values()
        return dict.fromkeys(sources, "model.diffusion_model." if source.found.kind in ("unet", "mmdit") else "")
    network = {"unet": "model.diffusion_model.", "transformer": "model.diffusion_model."}
    if family in ("sd3", "flux"):
        texts = dict(zip(TEXTS, (CLIP_L, CLIP_G, T5) if family == "sd3" else (CLIP_L, T5)))
        table = network | texts | {"vae": "vae." if family == "flux" else "first_stage_model."}
    elif family == "sdxl":
        second = f"{TWO}model." if TEXTS[0] in sources else f"{ONE}model."
        table = network | {"vae": "first_stage_model.", TEXTS[0]: f"{ONE}transformer.", TEXTS[1]: second}
    else:
        config = (sources[TEXTS[0]].config or {}) if TEXTS[0] in sources else {}
        stem = "model" if config.get("hidden_act") == "gelu" else "transformer"
        table = network | {"vae": "first_stage_model.", TEXTS[0]: f"cond_stage_model.{stem}."}
    strange = sources.keys() - table.keys()
    if strange:
        raise CheckpointError(f"single files have no place for {min(strange)}: convert the other parts one by one")
    return table


def write_folders(out: Path, targets: Mapping[str, Target]) -> None:
    """Write a folder for each network; all of them appear at once."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=out.parent, prefix=DRAFT))
    try:
        for name, target in targets.items():
            folder = draft / name
            folder.mkdir(exist_ok=True)
            weights = "model" if "architectures" in target.config else "diffusion_pytorch_model"
            write_streamed(folder / f"{weights}.safetensors", target.outline, target.tensors(), {"format": "pt"})
            words = json.dumps(target.config, indent=2, sort_keys=True)
            (folder / "config.json").write_text(words + "\n")
        draft.chmod(0o755)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_file(out: Path, targets: Mapping[str, Target], starts: Mapping[str, str]) -> None:
    """Write all networks into one file."""
    shapes = {starts[name] + key: value for name, part in targets.items() for key, value in part.outline.items()}

    def stream() -> Iterator[tuple[str, Any]]:
        for name, target in targets.items():
            for key, value in target.tensors():
                yield starts[name] + key, value

    write_streamed(out, shapes, stream(), {"format": "pt"})
