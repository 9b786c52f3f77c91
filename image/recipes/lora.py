"""LoRA: low-rank adaptation of a trained model (2106.09685).

langevin train --from runs/ldm-tiny --data pictures --lora 8   the same as
langevin train lora --model runs/ldm-tiny --data pictures      only the LoRA is trained, and only it is saved
langevin sample runs/lora-tiny --prompt "a red 7"              opens the model too, from where it lay
langevin convert runs/lora-tiny style.safetensors              the LoRA with diffusers' names; --to original: kohya's
"""

from __future__ import annotations

import dataclasses

from core.nn.lora import ATTENTION
from core.recipe import Recipe, Training, cosine
from core.systems.diffusion import Diffusion
from core.systems.lora import LoRADiffusion
from core.train.ema import Constant, Power
from image.trained import Trained, open_trained

RATE = 0.128  # over the width of the network: the 1e-4 that Stable Diffusion is adapted with, at its 1280


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
    return _adapted(open_trained(model), data, rank, alpha, targets, training)


def own(
    model: str,
    data: str = "",
    rank: int = 16,
    alpha: float = 0.0,
    targets: tuple[str, ...] = ATTENTION,
    size: int = 0,
    steps: int = 1_000,
    batch: int = 16,
    lr: float = 0.0,
    warmup: int = 0,
) -> Recipe:
    """On pictures of your own, at a rate that falls with the width of the network; alpha, size, lr: 0 chooses them."""
    found = open_trained(model, size)
    rise = warmup or min(100, steps // 10) * batch
    training = Training(batch, steps, lr or RATE / found.width, rise, cosine, (0.9, 0.99), ema={"ema": Power(0.06)})
    return _adapted(found, data, rank, alpha or float(rank), targets, training)


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
    return _adapted(open_trained(model), data, rank, alpha, targets, training)


def _adapted(
    found: Trained, data: str, rank: int, alpha: float, targets: tuple[str, ...], training: Training
) -> Recipe:
    """A trained model's recipe with a LoRA to train; on pictures of your own, or else on the model's data."""

    def system() -> Diffusion:
        return LoRADiffusion(found.system(), rank, alpha, targets)

    if data:
        return found.recipe(system, training, data)
    if found.own is None:
        raise ValueError("a published model comes without its data: give yours with --data")
    return dataclasses.replace(found.own, system=system, training=training, initialize=None)
