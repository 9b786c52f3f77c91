"""ControlNets of published pipelines, and the pictures that they follow.

``--controlnet folder`` or, with a scale, ``--controlnet folder:0.8``; ``--control map.png`` is the control picture as
it is, and ``--edges photo.png`` is followed by its edges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from core.codec import Latents
from core.model import Model
from core.systems.diffusion import Diffusion
from core.weights.controlnet import load_diffusers
from core.weights.lora import path_and_weight
from image.condition.control import ControlPicture
from image.controlnet import with_controlnet
from image.edges import read_control


def attach_controlnet(model: Model, controlnet: str) -> Model:
    """A published pipeline with the ControlNet of a folder.

    Raises ValueError where a model has no place for one, and CheckpointError for a folder that is none.
    """
    system = model.diffusion
    if isinstance(system.conditioner, ControlPicture) or not isinstance(system.codec, Latents):
        raise ValueError(f"{model.name} takes no further ControlNet: leave --controlnet out")
    folder, scale = path_and_weight(controlnet)
    net, _ = load_diffusers(folder)
    factor = system.codec.autoencoder.plan.factor
    if net.reduction != factor:
        raise ValueError(f"{folder} halves its picture to 1/{net.reduction}, and the model's latents are 1/{factor}")
    return dataclasses.replace(model, system=with_controlnet(system, net, scale))


def control_condition(model: Model, asked: bool, control: str | None, edges: str | None) -> Mapping[str, Tensor]:
    """The control picture (1, C, H, W) of all samples, by name; nothing where nothing was ``asked``.

    Raises ValueError for a model that takes no control picture, and where one is missing or unreadable.
    """
    takes = isinstance(model.system, Diffusion) and isinstance(model.system.conditioner, ControlPicture)
    if control is None and edges is None:
        if takes and asked:
            raise ValueError("this model follows a picture: name a photo with --edges, or a map with --control")
        return {}
    if not takes:
        raise ValueError(f"{model.name} takes no control picture: leave --control and --edges out")
    height, width = picture_size(model)
    return read_control(Path(control or edges or ""), control is not None, height, width)


def picture_size(model: Model) -> tuple[int, int]:
    """The height and width of a model's pictures, in pixels."""
    codec = model.diffusion.codec
    factor = codec.autoencoder.plan.factor if isinstance(codec, Latents) else 1
    return model.shape[-2] * factor, model.shape[-1] * factor
