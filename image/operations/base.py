"""What all edits of pictures share: flags, and the job of encoding, conditioning, guiding and decoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.flags import option
from core.model import Model, Operation
from image.picture import Picture

if TYPE_CHECKING:
    from torch import Tensor

    from core.cond import Cond
    from core.denoiser import DenoiserLike
    from core.random import SamplingRNG
    from core.sample.step import Step
    from core.systems.diffusion import Diffusion
    from core.systems.sampling import Sampling


@dataclass(frozen=True)
class PictureOperation(Operation):
    """An edit of a picture, which is scaled and cropped to the model's size."""

    negative_prompt: str | None = option(None, "negative prompt: what guidance moves away from")
    size: tuple[int, ...] | None = option(
        None, "of a published pipeline: side, or height and width, in pixels (default: the trained size)", "PIXELS"
    )

    def run(self, model: Model, source: Any) -> list[Picture]:
        """The edited pictures."""
        caption = self.prompt or ""
        return [Picture(pixels, caption) for pixels in self.edited(Job.of(self, model, source))]

    def edited(self, job: Job) -> Tensor:
        """The edited pictures (B, C, H, W), a result each."""
        raise ValueError("this operation edits no pictures")


def strength_in_range(strength: float) -> None:
    """Raises ValueError for a strength that is none."""
    if not 0 <= strength <= 1:
        raise ValueError(f"--strength lies in 0 (nothing changes) to 1 (all is new), not at {strength}")


@dataclass(frozen=True)
class Job:
    """An edit, and all that it needs."""

    model: Model
    operation: PictureOperation
    sampling: Sampling
    noise: SamplingRNG
    shape: tuple[int, int, int]  # of the pictures that the model makes
    picture: Picture

    @classmethod
    def of(cls, operation: PictureOperation, model: Model, picture: Picture) -> Job:
        """Raises ValueError for a model that makes no pictures."""
        from core.random import SamplingRNG
        from image.published.scheduler import without_unit_noise

        sampling = operation.sampling(model.sampling)
        sampling = dataclasses.replace(sampling, sampler=without_unit_noise(sampling.sampler))
        noise = SamplingRNG(operation.seed, operation.samples())
        return cls(model, operation, sampling, noise, shape_of(model), picture)

    @property
    def system(self) -> Diffusion:
        """The model's."""
        return self.model.diffusion

    def encode(self, data: Tensor) -> Tensor:
        """A picture (1, C, H, W) -> what is diffused, once for each result."""
        return self.system.codec.encode(data.to(self.system.like)).repeat(self.operation.count, 1, 1, 1)

    def decode(self, steps: Iterator[Step]) -> Tensor:
        """The pictures (B, C, H, W) at the end of a walk. Raises ValueError where it diverged."""
        from core.sample.step import run

        return self.model.decoded(run(steps))

    def condition(self, prompt: str | None) -> Cond:
        """The condition of a prompt; the null without one."""
        device = self.system.like.device
        if prompt is None:
            return self.system.conditioner.null(self.operation.count).to(device)
        return self.system.conditioner(self.model.prompts.parse(prompt, self.operation.count)).to(device)

    def guided(self) -> DenoiserLike:
        """The denoiser under guidance; without any where there is no prompt."""
        prompt, negative = self.operation.prompt, self.operation.negative_prompt
        scale = 1.0 if prompt is None and negative is None else self.sampling.guidance
        away = None if negative is None else self.model.prompts.parse(negative, self.operation.count)
        return self.system.guided(scale, self.sampling.guide, away)

    def known(self, size: tuple[int, int] | None = None) -> Tensor:
        """The picture (1, C, H, W) in [-1, 1] at a height and width, or the model's."""
        from image.source import resized

        return resized(self.picture.pixels, size or self.shape[1:], self.shape[0])

    def mask(self, source: Any) -> Tensor:
        """1 where the picture is generated and 0 where it is kept, of a file or a picture: (1, 1, H, W)."""
        from image.source import resized

        mask = self.model.modality.accept(source).pixels
        if mask.shape[1:] != self.picture.pixels.shape[1:]:
            sizes = [f"{pixels.shape[2]} x {pixels.shape[1]}" for pixels in (mask, self.picture.pixels)]
            raise ValueError(f"the mask is {sizes[0]}, the picture {sizes[1]}: give a mask of the picture's size")
        return (resized(mask, self.shape[1:], 1) > 0).float()


def shape_of(model: Model) -> tuple[int, int, int]:
    """(C, H, W) of the pictures that a model makes. Raises ValueError for one that makes something else."""
    import torch

    system = model.diffusion
    made = system.decode(torch.zeros(1, *model.shape).to(system.like)).shape[1:]
    if len(made) != 3 or made[0] not in (1, 3):
        raise ValueError(f"{model.name} makes no pictures: give a checkpoint of one that does")
    return made[0], made[1], made[2]
