"""A published pipeline with a published ControlNet makes the picture that diffusers makes of both."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from torch import Tensor

from core.random import SamplingRNG
from core.sample.step import run
from core.weights.controlnet import load_diffusers
from image.controlnet import with_controlnet
from image.published import open_pipeline
from tests.support import pipelines

SIZE, STEPS, GUIDANCE, SCALE = (32, 48), 5, 5.0, 0.7
PROMPT, NEGATIVE = "a red cat, and a dog", "dog!"
PIPELINES = {
    "stable_diffusion": StableDiffusionControlNetPipeline,
    "sdxl": StableDiffusionXLControlNetPipeline,
}


@pytest.mark.parametrize("family", PIPELINES)
def test_the_same_picture(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    folder = pipelines.controlnet(folders[family], tmp_path / "controlnet")
    control = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    pipeline = open_pipeline(folders[family], SIZE)
    net, _ = load_diffusers(folder)

    def ours(scale: float) -> Tensor:
        system = with_controlnet(pipeline.system, net, scale)
        steps = system.sample(
            SamplingRNG(0, [0]),
            pipeline.shape,
            {"caption": [PROMPT], "control": control},
            dataclasses.replace(pipeline.sampling, steps=STEPS, guidance=GUIDANCE),
            negative={"caption": [NEGATIVE]},
        )
        return (system.decode(run(steps)).clamp(-1, 1) + 1) / 2

    base = DiffusionPipeline.from_pretrained(folders[family], local_files_only=True)
    extra: dict[str, Any] = {"add_watermarker": False} if family == "sdxl" else {"requires_safety_checker": False}
    theirs = PIPELINES[family](**base.components, controlnet=ControlNetModel.from_pretrained(folder), **extra)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        PROMPT,
        image=control,
        height=SIZE[0],
        width=SIZE[1],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        negative_prompt=NEGATIVE,
        controlnet_conditioning_scale=SCALE,
        latents=SamplingRNG(0, [0]).start(pipeline.shape).float(),
        output_type="pt",
    ).images
    found = ours(SCALE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert float((found - ours(0.0)).abs().max()) > 0.05  # it leads


def test_a_controlnet_of_another_base_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    net, _ = load_diffusers(pipelines.controlnet(folders["sdxl"], tmp_path / "controlnet"))
    with pytest.raises(ValueError, match="made for the same base"):
        with_controlnet(open_pipeline(folders["stable_diffusion"], SIZE).system, net)
    with pytest.raises(ValueError, match="leads a U-Net"):
        with_controlnet(open_pipeline(folders["flux"], SIZE).system, net)
