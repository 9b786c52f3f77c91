"""ControlNet: a trained text-to-image model learns to follow the edges of a picture (2302.05543).

langevin train controlnet --model runs/ldm-tiny --data pictures   only the ControlNet is trained and saved
langevin sample runs/controlnet-tiny --prompt "a red 7" --edges photo.png    opens the model too, from where it lay
langevin sample runs/controlnet-tiny --prompt "a red 7" --control map.png    edges as they are, drawn by hand perhaps
langevin convert runs/controlnet-tiny folder         a ControlNetModel of diffusers
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from core.codec import Latents
from core.data.dataset import Dataset
from core.nn.text_unet import TextUNet
from core.prompts import Captions, Conditions
from core.recipe import Recipe, Training, build, constant, cosine, load, read_header, tiny_training
from core.systems.diffusion import Diffusion
from core.train.state import newest
from core.weights.checkpoint import CheckpointError
from image.captioned import CaptionDropout, captioned_recipe
from image.controlnet import ControlNetDiffusion, hint_widths
from image.edges import WithEdges


def paper(model: str, data: str = "", steps: int = 100_000, batch: int = 32, lr: float = 1e-5) -> Recipe:
    """On a large model, a constant small rate: it begins to follow all at once, after some thousands of steps."""
    return _controlled(model, data, Training(batch, steps, lr, decay=constant, weight_decay=1e-2))


def tiny(model: str, data: str = "", steps: int = 1_000, batch: int = 64, lr: float = 1e-3) -> Recipe:
    """On a tiny model, of the digits for instance: minutes on two CPU cores."""
    training = replace(tiny_training(batch, steps, lr, 50), decay=cosine)
    return _controlled(model, data, training)


def _controlled(model: str, data: str, training: Training) -> Recipe:
    """A model's own recipe with a ControlNet to train; on captioned pictures of your own, or else on the model's data.

    model: a checkpoint, or a run's folder. Raises CheckpointError where there is none, or it has no U-Net for text.
    """
    path = Path(model)
    path = (newest(path) or path) if path.is_dir() else path
    metadata = read_header(path)
    base = build(metadata["recipe"], metadata["arguments"])
    factor = _factor(base, path)
    width = factor * base.shape[-1]

    def system() -> Diffusion:
        with torch.device("cpu"):  # the model comes from its file, even where systems are built without memory
            return ControlNetDiffusion(load(path).diffusion, hint_widths=hint_widths(factor))

    if isinstance(base.training.augment, CaptionDropout):
        training = dataclasses.replace(training, augment=base.training.augment)
    own = captioned_recipe(system, base.shape, base.sampling, training, data, width) if data else base

    @cache
    def parts() -> tuple[Dataset, Dataset]:
        train, held_out = own.data()
        return WithEdges(train), WithEdges(train if held_out is None else held_out)

    def validation(seed: int, samples: Sequence[int]) -> Conditions:
        """Captions and edges of held-out pictures."""
        seen = parts()[1]
        numbers = [number % len(seen) for number in samples]
        shown = {name: value for name, value in seen.get(numbers).items() if name != "x"}
        return {**own.prompts.default(seed, numbers), **shown}

    return dataclasses.replace(
        own,
        system=system,
        training=training,
        data=parts,
        prompts=Captions(validation),
        initialize=None,
    )


def _factor(base: Recipe, path: Path) -> int:
    """How many times larger than its x a model's pictures are."""
    with torch.device("meta"):
        found = base.system()
    if not isinstance(found, Diffusion):
        raise CheckpointError(f"{path} is of {base.name}, which makes no samples: give a diffusion model")
    if not isinstance(found.denoiser.net, TextUNet):
        raise CheckpointError(
            f"{path} has a {type(found.denoiser.net).__name__}, and a ControlNet is of a U-Net that reads text: "
            "give a run of ldm, stable_diffusion or sdxl"
        )
    return found.codec.autoencoder.plan.factor if isinstance(found.codec, Latents) else 1
