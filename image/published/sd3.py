"""Stable Diffusion 3 and 3.5 (2403.03206): an MMDiT on a straight path that reads two CLIPs and a T5."""

from __future__ import annotations

import torch

from core.denoiser import Denoiser, thousandths
from core.prediction import FlowVelocity
from core.sample.euler import euler
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.systems.sampling import Sampling
from core.text.pretrained import open_clip, open_t5
from core.weights import mmdit
from image.condition.t5 import Sd3Text
from image.published.folder import PipelineFolder
from image.published.pipeline import Pipeline, Size, downsampling, open_latents, picture_size
from image.published.scheduler import read_flow

LENGTH = 256  # of T5's text, and of the zeros in its place


def open_sd3(folder: PipelineFolder, size: Size | None, dtype: torch.dtype) -> Pipeline:
    """SD3 medium, 3.5 large or medium; T5, its largest part, may be left out: 28 steps, guidance 7."""
    net = mmdit.load_diffusers(folder.part("transformer"))
    codec = open_latents(folder, dtype)
    clips = [open_clip(folder.part(f"tokenizer{n}"), folder.part(f"text_encoder{n}")) for n in ("", "_2")]
    third = folder.has("text_encoder_3")
    t5 = open_t5(folder.part("tokenizer_3"), folder.part("text_encoder_3"), LENGTH) if third else None
    words = Sd3Text(clips, t5, net.text.in_features, LENGTH)
    cell = downsampling(codec) * net.patch
    height, width = picture_size(size, net.size * downsampling(codec), cell)
    if max(height, width) > net.table * cell:
        raise ValueError(
            f"this model has no position embeddings beyond {net.table * cell} pixels: ask for a smaller size"
        )
    grid = read_flow(folder.scheduler(), str(folder.path), (height // cell) * (width // cell))
    denoiser = Denoiser(net.to(dtype), Flow(), FlowVelocity(), thousandths)
    shape = (net.channels, height // downsampling(codec), width // downsampling(codec))
    system = Diffusion(denoiser, words.to(dtype), codec).eval()
    return Pipeline(folder.name, system, shape, Sampling(euler, grid, steps=28, guidance=7.0))
