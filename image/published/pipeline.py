"""What all published pipelines become: a system, the shape of its latents, and how it is sampled by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.codec import Latents
from core.model import Modality, Model
from core.prompts import Captions, empty_captions
from core.systems.diffusion import Diffusion
from core.systems.sampling import Sampling
from core.weights import autoencoder
from image.published.folder import PipelineFolder

Size = int | tuple[int, int]  # of a picture: the side of a square, or (height, width)


@dataclass(frozen=True)
class Pipeline:
    """A published pipeline, opened."""

    name: str  # the class that it is to diffusers
    system: Diffusion
    shape: tuple[int, int, int]  # of one picture's latents (C, H, W)
    sampling: Sampling  # its own scheduler, with the published number of steps and guidance

    def model(self, modality: Modality[Any], path: Path) -> Model:
        """The pipeline as commands know a model."""
        return Model(
            self.system,
            self.shape,
            self.sampling,
            modality,
            Captions(empty_captions),
            self.name,
            path,
            published=True,
            usual=(1, 1),
        )


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
