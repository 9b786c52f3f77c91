"""ControlNets of published pipelines, and the pictures that they follow.

``--controlnet folder`` or, with a scale, ``--controlnet folder:0.8``; ``--control map.png`` is the control picture as
it is, and ``--edges photo.png`` is followed by its edges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from app.loras import weighed
from core.recipe import Loaded, Recipe


def led(loaded: Loaded, controlnet: str | None) -> Loaded:
    """A published pipeline led by the ControlNet of a folder; the model as it was where none is named.

    Raises ValueError where a model has no place for one, and CheckpointError for a folder that is none.
    """
    if controlnet is None:
        return loaded
    from core.codec import Latents
    from core.systems.controlnet import with_controlnet as led_by
    from core.weights.controlnet import load_diffusers
    from image.edges import read_control

    system, shape = loaded.system, loaded.recipe.shape
    if loaded.recipe.control is not None or not isinstance(system.codec, Latents):
        raise ValueError(f"{loaded.recipe.name} takes no further ControlNet: leave --controlnet out")
    folder, scale = weighed(controlnet)
    net, _ = load_diffusers(folder)
    factor = system.codec.autoencoder.plan.factor
    if net.reduction != factor:
        raise ValueError(f"{folder} halves its picture to 1/{net.reduction}, and the model's latents are 1/{factor}")

    def control(file: Path, ready: bool) -> Mapping[str, Tensor]:
        return read_control(file, ready, factor * shape[-2], factor * shape[-1])

    recipe = dataclasses.replace(loaded.recipe, control=control)
    return dataclasses.replace(loaded, recipe=recipe, system=led_by(system, net, scale))


def control_of(recipe: Recipe, asked: bool, control: str | None, edges: str | None) -> Mapping[str, Tensor]:
    """What all samples follow (1, ...), by name; nothing where nothing was ``asked``, as the recipe then does.

    Raises ValueError for a model that takes no control picture, and where one is missing, given twice or unreadable.
    """
    if control is None and edges is None:
        if recipe.control is not None and asked:
            raise ValueError("this model follows a picture: name a photo with --edges, or a map with --control")
        return {}
    if recipe.control is None:
        raise ValueError(f"{recipe.name} takes no control picture: leave --control and --edges out")
    if control is not None and edges is not None:
        raise ValueError("--control is a control picture and --edges makes one: give one of them")
    return recipe.control(Path(control or edges or ""), control is not None)


def told_control(controlnet: str | None, control: str | None, edges: str | None) -> dict[str, object]:
    """What belongs into the settings of samples that follow a picture."""
    from app.sampling import digest

    named = control or edges
    told: dict[str, object] = {}
    if controlnet:
        told |= {"controlnet": controlnet, "controlnet_sha256": digest(weighed(controlnet)[0])}
    if named:
        told |= {"control": control, "edges": edges, "control_sha256": digest(Path(named))}
    return told
