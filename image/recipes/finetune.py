"""Fine-tuning of a whole model on pictures of your own, where its own recipe cannot: see `langevin train --from`.

langevin train --from stable-diffusion-v1-5 --data pictures    a published folder: its network is trained and saved
langevin train --from runs/edm-tiny --data pictures            a model of built-in data
"""

from __future__ import annotations

import json
from collections.abc import Callable

from core.recipe import Recipe, Training, cosine
from core.systems.diffusion import Diffusion
from core.systems.lora import save_only
from core.train.ema import Constant
from core.train.precision import Precision
from image.trained import Trained, of_recipe, open_trained

NETWORK = "denoiser."  # how the names of a published network's tensors begin


def own(
    data: str,
    model: str = "",
    base: str = "",
    size: int = 0,
    classes: int = 0,
    steps: int = 2_000,
    batch: int = 16,
    lr: float = 0.0,
    warmup: int = 1_600,
) -> Recipe:
    """A published folder (model), or a recipe (base) whose weights are copied, on pictures of your own.

    base: the recipe and its arguments as JSON; size, classes, lr: 0 is the model's own.
    """
    if bool(model) == bool(base):
        raise ValueError("fine-tuning begins with a trained model: give it with --from")
    found = open_trained(model, size) if model else _of_base(base).resized(size).with_classes(classes)
    training = Training(
        batch,
        steps,
        lr or found.lr,
        warmup,
        cosine,
        precision=Precision.AUTO if model else Precision.NO,
        ema={"ema": Constant(0.999)},
    )
    return found.recipe(_network_of(found) if model else found.system, training, data)


def _of_base(base: str) -> Trained:
    described = json.loads(base)
    return of_recipe(described["recipe"], described["arguments"])


def _network_of(found: Trained) -> Callable[[], Diffusion]:
    """The published system, of which the network alone is trained and saved; the rest is opened from its folder."""

    def system() -> Diffusion:
        made = found.system()
        made.conditioner.requires_grad_(False)
        save_only(made, NETWORK)
        return made

    return system
