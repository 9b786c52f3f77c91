"""LoRA: low-rank adaptation of a trained model (2106.09685).

langevin train lora --model runs/ldm-tiny --data pictures      only the LoRA is trained, and only it is saved
langevin sample runs/lora-tiny --prompt "a red 7"              opens the model too, from where it lay
langevin convert runs/lora-tiny style.safetensors              the LoRA with diffusers' names; --to original: kohya's
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from core.codec import Latents
from core.nn.lora import ATTENTION
from core.recipe import Recipe, Training, build, cosine, load, read_header
from core.systems.diffusion import Diffusion
from core.systems.lora import LoRADiffusion
from core.train.ema import Constant, Power
from core.train.state import newest
from core.weights.checkpoint import CheckpointError
from image.captioned import captioned_recipe


def paper(
    model: str,
    data: str = "",
    rank: int = 16,
    alpha: float = 16.0,
    targets: tuple[str, ...] = ATTENTION,
    steps: int = 5_000,
    batch: int = 16,
    lr: float = 1e-4,
) -> Recipe:
    """On a large model: rank 16 on all of its attention, a few thousand small steps."""
    training = Training(batch, steps, lr, 100 * batch, cosine, weight_decay=1e-2, ema={"ema": Constant(0.999)})
    return _adapted(model, data, rank, alpha, targets, training)


def tiny(
    model: str,
    data: str = "",
    rank: int = 8,
    alpha: float = 8.0,
    targets: tuple[str, ...] = ATTENTION,
    steps: int = 1_000,
    batch: int = 32,
    lr: float = 2e-3,
) -> Recipe:
    """On a tiny model, of the digits for instance: minutes on two CPU cores."""
    training = Training(batch, steps, lr, 50 * batch, cosine, betas=(0.9, 0.99), ema={"ema": Power(0.06)})
    return _adapted(model, data, rank, alpha, targets, training)


def _adapted(model: str, data: str, rank: int, alpha: float, targets: tuple[str, ...], training: Training) -> Recipe:
    """A model's own recipe with a LoRA to train; on captioned pictures of your own, or else on the model's data.

    model: a checkpoint, or a run's folder. Raises CheckpointError where there is none.
    """
    path = Path(model)
    path = (newest(path) or path) if path.is_dir() else path
    metadata = read_header(path)
    base = build(metadata["recipe"], metadata["arguments"])

    def system() -> Diffusion:
        with torch.device("cpu"):  # the model comes from its file, even where systems are built without memory
            found = load(path).diffusion
        return LoRADiffusion(found, rank, alpha, targets)

    if not data:
        return dataclasses.replace(base, system=system, training=training, initialize=None)
    own = captioned_recipe(system, base.shape, base.sampling, training, data, side(base, path))
    return dataclasses.replace(own, precomputed=base.precomputed)


def side(base: Recipe, path: Path) -> int:
    """How many pixels wide the pictures of a model are."""
    with torch.device("meta"):
        found = base.system()
    if not isinstance(found, Diffusion):
        raise CheckpointError(f"{path} is of {base.name}, which makes no samples: give a diffusion model")
    return base.shape[-1] * (found.codec.autoencoder.plan.factor if isinstance(found.codec, Latents) else 1)
