"""A trained model that a recipe goes on from: a checkpoint, the recipe of one, or a folder that others published."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.codec import Latents
from core.condition import ClassLabel
from core.nn.lora import ATTENTION, layers_of
from core.objective import LogitNormal, Objective, epsilon, flow, indices, velocity
from core.prediction import Epsilon, FlowVelocity, Prediction, V
from core.prompts import Captions, Classes, Prompts
from core.recipe import Recipe, Sampling, Training, build, load, read_header
from core.registry import newest
from core.systems.diffusion import Diffusion
from core.weights.checkpoint import CheckpointError
from image.captioned import captioned_recipe
from image.defaults import image_files, image_recipe
from image.published import open_pipeline
from image.published.pipeline import Pipeline, downsampling

PUBLISHED_RATE = 1e-5  # at which all of a published network is fine-tuned
OBJECTIVES: Mapping[type[Prediction], Objective] = {  # of published models, by what they predict
    Epsilon: Objective(indices, epsilon, drop=0.1),
    V: Objective(indices, velocity, drop=0.1),
    FlowVelocity: Objective(LogitNormal(), flow, drop=0.1),
}


@dataclass(frozen=True)
class Trained:
    """A model with what its recipe says of it."""

    system: Callable[[], Diffusion]  # with its weights; of a recipe alone, ready for them
    shape: tuple[int, ...]  # of one x
    sampling: Sampling
    prompts: Prompts
    lr: float  # of its own training
    factor: int = 1  # pixels to a place of x, along each axis
    channels: int = 3  # of its pictures
    width: int = 1  # of the widest attention of its network
    own: Recipe | None = None  # None of what was published

    def recipe(self, system: Callable[[], Diffusion], training: Training, data: str) -> Recipe:
        """A recipe of a system made of it, on pictures of your own with what it is conditioned on."""
        side = self.shape[-1] * self.factor
        if isinstance(self.prompts, Captions):
            return captioned_recipe(system, self.shape, self.sampling, training, data, side)
        classes = self.prompts.count if isinstance(self.prompts, Classes) else 0
        files = image_files(data, side, self.channels)
        return image_recipe(system, (self.shape[0], side, side), files, self.sampling, training, classes)

    def resized(self, size: int) -> Trained:
        """The same for pictures of another side; 0 leaves it. Raises ValueError where its latents have no such side."""
        if size % self.factor:
            raise ValueError(f"{size} pixels are no whole number of latents: give a size that {self.factor} divides")
        side = size // self.factor
        return dataclasses.replace(self, shape=(self.shape[0], side, side)) if size else self

    def with_classes(self, count: int) -> Trained:
        """The same with so many classes; 0 leaves it. Raises ValueError for a model without classes."""
        if not count:
            return self
        if not isinstance(self.prompts, Classes):
            raise ValueError("the model has no classes: leave --classes out")

        def system() -> Diffusion:
            found = self.system()
            for part in found.modules():
                if isinstance(part, ClassLabel):
                    part.classes, part.table = count, nn.Embedding(count + 1, part.table.embedding_dim)
            return found

        return dataclasses.replace(self, system=system, prompts=Classes(count))


def of_checkpoint(path: Path) -> Trained:
    """The averaged model in a checkpoint. Raises CheckpointError where it makes no samples."""
    header = read_header(path)

    def system() -> Diffusion:
        with torch.device("cpu"):  # the model comes from its file, even where systems are built without memory
            return load(path).diffusion

    return dataclasses.replace(of_recipe(header["recipe"], header["arguments"], str(path)), system=system)


def of_recipe(name: str, arguments: Mapping[str, Any], path: str = "the checkpoint") -> Trained:
    """The model that a recipe makes, without its weights. Raises CheckpointError where it makes no samples."""
    own = build(name, arguments)
    with torch.device("meta"):
        found = own.system()
    if not isinstance(found, Diffusion):
        raise CheckpointError(f"{path} is of {name}, which makes no samples: give a diffusion model")

    def system() -> Diffusion:
        made = own.system()
        assert isinstance(made, Diffusion)
        return made

    plan = found.codec.autoencoder.plan if isinstance(found.codec, Latents) else None
    factor, channels = (1, own.shape[0]) if plan is None else (plan.factor, plan.channels)
    width = width_of(found)
    return Trained(system, own.shape, own.sampling, own.prompts, own.training.lr, factor, channels, width, own)


def width_of(system: Diffusion) -> int:
    """How much the widest layer of attention in its network reads; of a network without attention, the widest layer."""
    layers = layers_of(system.denoiser.net) if isinstance(system.denoiser.net, nn.Module) else {}
    chosen = [layer for name, layer in layers.items() if any(fnmatchcase(name, target) for target in ATTENTION)]
    return max((int(layer.weight.shape[1]) for layer in chosen or layers.values()), default=1)


def of_folder(path: Path, size: int = 0) -> Trained:
    """A published pipeline, with the objective of what it predicts. Raises ValueError where it cannot be opened."""
    opened: list[Pipeline] = []

    def pipeline() -> Pipeline:
        with torch.device("cpu"):
            return open_pipeline(path, size or None)

    def system() -> Diffusion:
        found = (opened.pop() if opened else pipeline()).system
        denoiser, kind = found.denoiser, type(found.denoiser.prediction)
        if kind not in OBJECTIVES:
            raise ValueError(f"{path} predicts {kind.__name__}, of which no objective is known")
        return Diffusion(denoiser, found.conditioner, found.codec, OBJECTIVES[kind])

    first = pipeline()
    opened.append(first)  # for the first system: a text encoder may take half a minute
    assert isinstance(first.system.codec, Latents)
    prompts = Captions(lambda seed, samples: {"caption": [""] * len(samples)})
    factor = downsampling(first.system.codec)
    width = width_of(first.system)
    return Trained(system, first.shape, first.sampling, prompts, PUBLISHED_RATE, factor, width=width)


def open_trained(model: str, size: int = 0) -> Trained:
    """What lies at a path, for pictures of a size. Raises ValueError where that is no trained model of pictures."""
    path = newest(Path(model))
    return of_folder(path, size) if path.is_dir() else of_checkpoint(path).resized(size)
