"""Pipelines that others published, with our networks, autoencoders and samplers: Stable Diffusion, SDXL, SD3, Flux.

    pipeline = open_pipeline(Path("stable-diffusion-v1-5"))
    pipeline.system, pipeline.shape, pipeline.sampling

The folder is one that diffusers saves. Any sampler, grid and guidance of the core works on it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from image.published.flux import open_flux
from image.published.folder import PipelineFolder
from image.published.pipeline import Pipeline, Size
from image.published.refiner import hand_off
from image.published.sd3 import open_sd3
from image.published.stable_diffusion import open_sdxl, open_stable_diffusion

FAMILIES: dict[str, Callable[[PipelineFolder, Size | None, torch.dtype], Pipeline]] = {
    "StableDiffusionPipeline": open_stable_diffusion,
    "StableDiffusionXLPipeline": open_sdxl,
    "StableDiffusionXLImg2ImgPipeline": open_sdxl,  # the refiner
    "StableDiffusion3Pipeline": open_sd3,
    "FluxPipeline": open_flux,
}


def open_pipeline(path: Path, size: Size | None = None, dtype: torch.dtype = torch.float32) -> Pipeline:
    """A diffusers pipeline's folder, for pictures of a size: a side, or (height, width).

    dtype: in which networks and text encoders work; the autoencoder stays in float32 where it must. Raises ValueError
    for a class or a scheduler that is not read, and for parts that are missing or damaged.
    """
    folder = PipelineFolder.open(path)
    if folder.name not in FAMILIES:
        raise ValueError(f"{path} is a {folder.name}, which is not read: {', '.join(FAMILIES)} are")
    return FAMILIES[folder.name](folder, size, dtype)


__all__ = ["FAMILIES", "Pipeline", "Size", "hand_off", "open_pipeline"]
