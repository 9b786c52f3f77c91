"""Inpainting: what a mask marks is generated, the rest is kept to the pixel (2201.09865)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.flags import option
from image.operations.base import Job, PictureOperation

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Inpaint(PictureOperation):
    """Generate what a mask marks."""

    mask: Path | None = option(None, "picture of the same size, white where pixels are generated (required)", "FILE")
    repaint: int = option(1, "times that each step is repeated, noise added in between (RePaint)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is None:
            raise ValueError("inpainting needs --mask: a picture of the same size, white where pixels are generated")
        if self.repaint < 1:
            raise ValueError("--repaint must be at least 1")

    def edited(self, job: Job) -> Tensor:
        import torch
        import torch.nn.functional as F

        from core.edit import inpaint, repaint

        assert self.mask is not None
        known, mask = job.known(), job.mask(self.mask)
        code = job.encode(known)
        # A position of the code is generated if any of its pixels is.
        small = F.adaptive_max_pool2d(mask, (code.shape[2], code.shape[3])).to(code)
        sampler = job.sampling.sampler
        walk = inpaint(
            job.guided(),
            job.condition(self.prompt),
            code,
            small,
            job.noise,
            sampler=sampler if self.repaint == 1 else repaint(sampler, 1, self.repaint),
            grid=job.sampling.grid,
            steps=job.sampling.steps,
        )
        return torch.where(mask == 0, known, job.decode(walk))

    def files(self) -> list[Path]:
        """The mask, where it lies in a file."""
        return [self.mask] if isinstance(self.mask, Path) else []
