"""Flux.1 dev and schnell (Black Forest Labs, 2024): a transformer of two streams, then one, on a straight path."""

from __future__ import annotations

import torch

from core.denoiser import Denoiser, thousandths
from core.distill import embed_guidance
from core.prediction import FlowVelocity
from core.sample.euler import euler
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.systems.sampling import Sampling
from core.text.pretrained import open_clip, open_t5
from core.weights import flux
from image.condition.t5 import FluxText
from image.published.folder import PipelineFolder
from image.published.pipeline import Pipeline, Size, downsampling, open_latents, picture_size
from image.published.scheduler import read_flow

SIDE = 1024
LENGTHS = {True: 512, False: 256}  # of T5's text: dev's and schnell's


def open_flux(folder: PipelineFolder, size: Size | None, dtype: torch.dtype) -> Pipeline:
    """Dev, whose guidance embedding saves the second pass: 28 steps, guidance 3.5; or schnell: 4 steps, none."""
    net = flux.load_diffusers(folder.part("transformer"))
    codec = open_latents(folder, dtype)
    guided = net.guidance is not None
    clip = open_clip(folder.part("tokenizer"), folder.part("text_encoder"))
    t5 = open_t5(folder.part("tokenizer_2"), folder.part("text_encoder_2"), LENGTHS[guided])
    words = FluxText(clip, t5, 3.5 if guided else None)
    cell = downsampling(codec) * net.patch
    height, width = picture_size(size, SIDE, cell)
    grid = read_flow(folder.scheduler(), str(folder.path), (height // cell) * (width // cell), sigmas=True)
    denoiser = Denoiser(net.to(dtype), Flow(), FlowVelocity(), thousandths)
    shape = (codec.autoencoder.plan.code, height // downsampling(codec), width // downsampling(codec))
    sampling = Sampling(euler, grid, 28, 3.5, embed_guidance) if guided else Sampling(euler, grid, steps=4)
    return Pipeline(folder.name, Diffusion(denoiser, words.to(dtype), codec).eval(), shape, sampling)
