"""What pictures are asked for: prompts, sizes, LoRAs, control pictures and a refiner. Leaves torch alone until used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.flags import option
from core.model import Model, OnStep, Request

if TYPE_CHECKING:
    from torch import Tensor

    from core.random import SamplingRNG


@dataclass(frozen=True)
class ImageRequest(Request):
    """A request for pictures."""

    size: tuple[int, ...] | None = option(
        None, "of a published pipeline: side, or height and width, in pixels (default: the trained size)", "PIXELS"
    )
    controlnet: str | None = option(
        None, "for a published pipeline: a ControlNet's folder, with an optional scale: folder:0.8", "FOLDER[:SCALE]"
    )
    control: str | None = option(None, "control picture of a ControlNet, as it is: for ours, a map of edges", "FILE")
    edges: str | None = option(None, "picture whose edges are the control picture", "FILE")
    refiner: str | None = option(None, "an SDXL refiner, folder or checkpoint, for the last fifth of the noise", "PATH")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and len(self.size) not in (1, 2):
            raise ValueError("--size is one side, or height and width")
        if self.control is not None and self.edges is not None:
            raise ValueError("--control is a control picture and --edges makes one: give one of them")

    def prepared(self, model: Model) -> Model:
        """The model with the ControlNet, if one is named. Raises ValueError where it has no place for it."""
        from image.control import attach_controlnet

        if self.size is not None and not model.published:
            raise ValueError(f"{model.name} has a size of its own, and only published pipelines take one: omit --size")
        return model if self.controlnet is None else attach_controlnet(model, self.controlnet)

    def conditions(self, model: Model, samples: Sequence[int]) -> Mapping[str, Any]:
        """The prompt's conditions and the control picture, one for all samples."""
        from image.control import control_condition

        asked = self.prompt is not None or self.controlnet is not None
        found = control_condition(model, asked, self.control, self.edges)
        spread = {name: value.expand(len(samples), *value.shape[1:]) for name, value in found.items()}
        return {**super().conditions(model, samples), **spread}

    def draw(self, model: Model, noise: SamplingRNG, on_step: OnStep | None = None) -> tuple[Tensor, Mapping[str, Any]]:
        """Latents or pixels (B, C, H, W), by the base alone or with its refiner."""
        if self.refiner is None:
            return super().draw(model, noise, on_step)
        from core.registry import newest
        from image.control import picture_size
        from image.published.refiner import open_refiner, refine

        path = newest(Path(self.refiner))
        return refine(model, open_refiner(path, model, ImageRequest(size=picture_size(model))), self, noise)

    def files(self) -> list[Path]:
        """LoRAs, the ControlNet, the control picture and the refiner."""
        from core.registry import newest
        from core.weights.lora import path_and_weight

        found = super().files()
        if self.controlnet is not None:
            found.append(path_and_weight(self.controlnet)[0])
        found += [Path(name) for name in (self.control, self.edges) if name is not None]
        return found + ([newest(Path(self.refiner))] if self.refiner is not None else [])


REQUEST = ImageRequest
