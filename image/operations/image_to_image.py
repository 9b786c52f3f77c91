"""Image to image: the picture with noise added up to a level, and denoised under a prompt (2108.01073)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.flags import option
from image.operations.base import Job, PictureOperation, strength_in_range

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageToImage(PictureOperation):
    """Change a picture as a whole."""

    strength: float = option(0.6, "how much is changed: 0 is nothing, 1 is everything")

    def __post_init__(self) -> None:
        super().__post_init__()
        strength_in_range(self.strength)

    def edited(self, job: Job) -> Tensor:
        from core.edit import image_to_image

        walk = image_to_image(
            job.guided().bind(job.condition(self.prompt)),
            job.encode(job.known()),
            job.noise,
            sampler=job.sampling.sampler,
            grid=job.sampling.grid,
            steps=job.sampling.steps,
            strength=self.strength,
        )
        return job.decode(walk)
