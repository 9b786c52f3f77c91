"""Stable Diffusion 1 and 2 (2112.10752), and SDXL with its refiner (2307.01952): U-Nets that read CLIP's text."""

from __future__ import annotations

import torch

from core.denoiser import Denoiser
from core.nn.text_unet import TextUNet
from core.systems.diffusion import Diffusion
from core.systems.sampling import Sampling
from core.text.clip import ClipText
from core.text.pretrained import open_clip
from core.weights import text_unet
from image.condition.sdxl import SdxlText
from image.published.folder import PipelineFolder
from image.published.pipeline import Pipeline, Size, downsampling, open_latents, picture_size
from image.published.scheduler import read_diffusion

SCORES = (6.0, 2.5)  # aesthetic scores of the prompt and of the negative prompt, for the refiner


def open_stable_diffusion(folder: PipelineFolder, size: Size | None, dtype: torch.dtype) -> Pipeline:
    """Stable Diffusion 1 or 2, of noise or of v: 50 steps, guidance 7.5."""
    net, extra = open_net(folder, vector=False)
    codec = open_latents(folder, dtype)
    words = ClipText(open_clip(folder.part("tokenizer"), folder.part("text_encoder")))
    # Old folders leave the offset out; every pipeline of this class has been run with 1.
    found = read_diffusion({**folder.scheduler(), "steps_offset": 1}, str(folder.path))
    denoiser = Denoiser(net.to(dtype), found.schedule, found.prediction)
    height, width = picture_size(size, side_of(extra, 64) * downsampling(codec), downsampling(codec))
    shape = (net.plan.in_channels, height // downsampling(codec), width // downsampling(codec))
    system = Diffusion(denoiser, words.to(dtype), codec).eval()
    return Pipeline(folder.name, system, shape, Sampling(found.sampler, found.grid, steps=50, guidance=7.5))


def open_sdxl(folder: PipelineFolder, size: Size | None, dtype: torch.dtype) -> Pipeline:
    """SDXL's base, or its refiner, which has the second text encoder only: 50 steps, guidance 5."""
    net, extra = open_net(folder, vector=True)
    codec = open_latents(folder, dtype)
    height, width = picture_size(size, side_of(extra, 128) * downsampling(codec), downsampling(codec))
    numbers = [number for number in ("", "_2") if number == "_2" or folder.has("text_encoder")]
    clips = [open_clip(folder.part(f"tokenizer{n}"), folder.part(f"text_encoder{n}")) for n in numbers]
    words = SdxlText(
        clips,
        (height, width),
        extra.sinusoids or 256,
        bool(folder.index.get("force_zeros_for_empty_prompt", True)),
        SCORES if folder.index.get("requires_aesthetics_score") else None,
    )
    found = read_diffusion(folder.scheduler(), str(folder.path))
    denoiser = Denoiser(net.to(dtype), found.schedule, found.prediction)
    shape = (net.plan.in_channels, height // downsampling(codec), width // downsampling(codec))
    system = Diffusion(denoiser, words.to(dtype), codec).eval()
    return Pipeline(folder.name, system, shape, Sampling(found.sampler, found.grid, steps=50, guidance=5.0))


def open_net(folder: PipelineFolder, vector: bool) -> tuple[TextUNet, text_unet.UNetExtras]:
    """The U-Net. Raises ValueError for one of another system, such as inpainting's; vector: it takes one, as SDXL's."""
    net, extra = text_unet.load_diffusers(folder.part("unet"))
    plan = net.plan
    if plan.in_channels != plan.out_channels or plan.guidance_width or (plan.vector_width is not None) != vector:
        raise ValueError(
            f"{folder.path / 'unet'} takes {plan.in_channels} channels and other conditions than a plain "
            f"{folder.name}: inpainting, guidance-distilled and otherwise conditioned networks are not opened as one"
        )
    return net, extra


def side_of(extra: text_unet.UNetExtras, usual: int) -> int:
    """The side of the latents that the network was trained on."""
    size = extra.size or usual
    return size if isinstance(size, int) else size[0]
