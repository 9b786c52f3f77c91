"""What all published pipelines become: a system, the shape of its latents, and how it is sampled by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.codec import Latents
from core.data.dataset import Dataset
from core.recipe import Loaded, Recipe, Sampling, Training
from core.systems.diffusion import Diffusion
from core.weights import autoencoder
from image.captioned import parse_captions
from image.published.folder import PipelineFolder
from image.sheet import picture, save_page, tile

Size = int | tuple[int, int]  # of a picture: the side of a square, or (height, width)


@dataclass(frozen=True)
class Pipeline:
    """A published pipeline, opened."""

    name: str  # the class that it is to diffusers
    system: Diffusion
    shape: tuple[int, int, int]  # of one picture's latents (C, H, W)
    sampling: Sampling  # its own scheduler, with the published number of steps and guidance

    def loaded(self) -> Loaded:
        """The pipeline as commands know a model from a checkpoint."""
        recipe = Recipe(
            lambda: self.system,
            self.shape,
            self.sampling,
            Training(),
            no_data,
            show=show,
            ask=empty_captions,
            understand=parse_captions,
            name=self.name,
        )
        return Loaded(recipe, self.system, {"recipe": self.name})


class PublishedLatents(Latents):
    """``Latents`` whose autoencoder may work in a higher precision than the network, as some must."""

    def decode(self, code: Tensor) -> Tensor:
        return super().decode(code.to(next(self.autoencoder.parameters()).dtype)).float()


def open_latents(folder: PipelineFolder, dtype: torch.dtype) -> PublishedLatents:
    """The pipeline's autoencoder with its scale and shift; in float32 where its configuration says it must be."""
    net, extra = autoencoder.load_diffusers(folder.part("vae"))
    scale, shift = torch.tensor(extra.scale), torch.tensor(extra.shift)
    if extra.mean is not None and extra.deviation is not None:
        scale, shift = scale / torch.tensor(extra.deviation), torch.tensor(extra.mean)
    return PublishedLatents(net.to(torch.float32 if extra.upcast else dtype), scale, shift)


def downsampling(codec: Latents) -> int:
    """How many times smaller than the picture its latents are."""
    return int(2 ** (len(codec.autoencoder.plan.widths) - 1))


def picture_size(size: Size | None, usual: int, cell: int) -> tuple[int, int]:
    """Height and width of the picture; ``usual`` is its side where none is asked for.

    Raises ValueError for sides that are not multiples of ``cell``.
    """
    asked = usual if size is None else size
    height, width = (asked, asked) if isinstance(asked, int) else asked
    if min(height, width) < cell or height % cell or width % cell:
        raise ValueError(f"{height} x {width} is no size for this model: give a height and a width that {cell} divides")
    return height, width


def show(path: Path, samples: Tensor, settings: Mapping[str, object]) -> None:
    """Write samples (N, 3, H, W) in [-1, 1] as they are: one as a picture, several side by side."""
    page = picture(samples[0]) if len(samples) == 1 else picture(tile(samples))
    save_page(path, page, dict(settings))


def empty_captions(seed: int, samples: Sequence[int]) -> Mapping[str, Any]:
    """The empty prompt, for each sample."""
    return {"caption": [""] * len(samples)}


def no_data() -> tuple[Dataset, Dataset | None]:
    """Raises ValueError: a pipeline is only the model."""
    raise ValueError("a published pipeline holds no data: give the data of a recipe, or train a LoRA beside it")
