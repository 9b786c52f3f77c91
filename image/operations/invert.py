"""Inversion: back along the flow to the noise that a picture comes from, and down again (2010.02502, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.flags import option
from image.operations.base import Job, PictureOperation, strength_in_range

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Invert(PictureOperation):
    """Go back to a picture's noise, and down: as it was, or under a prompt."""

    source_prompt: str | None = option(None, "prompt that describes the picture as it is, for the walk back")
    strength: float = option(0.6, "how far back: 0 is not at all, 1 is pure noise")

    def __post_init__(self) -> None:
        super().__post_init__()
        strength_in_range(self.strength)
        if self.sampler is not None:
            raise ValueError("inversion walks the steps of Euler's method back and down again: leave --sampler out")

    def edited(self, job: Job) -> Tensor:
        from core.edit import invert, partial_grid
        from core.sample.euler import euler

        denoiser, condition = job.system.guided(1.0, job.sampling.guide), job.condition(self.source_prompt)
        times = partial_grid(job.sampling.grid, self.strength)(denoiser.schedule, job.sampling.steps)
        plain = denoiser.bind(condition)
        noisy = invert(plain, job.encode(job.known()), times)
        down = plain if self.prompt is None else job.guided().bind(job.condition(self.prompt))
        return job.decode(euler(down, noisy, times, job.noise))
