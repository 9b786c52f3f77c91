"""A published folder makes the picture here that it makes in diffusers: same text, same noise, same scheduler."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from core.grid import trailing
from core.random import SamplingRNG
from core.recipe import Sampling
from core.sample import SAMPLERS
from core.sample.step import run
from image.published import Pipeline, hand_off, open_pipeline
from image.published.refiner import conditions

SIZE = (32, 48)
PROMPT, NEGATIVE = "a red cat, and a dog", "dog!"
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def ours(
    pipeline: Pipeline, method: Sampling, avoid: str | None = NEGATIVE, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Our picture (1, 3, H, W) in [0, 1]."""
    steps = pipeline.system.sample(
        SamplingRNG(0, [0]),
        pipeline.shape,
        {"caption": [PROMPT]},
        method,
        negative=None if avoid is None else {"caption": [avoid]},
    )
    return (pipeline.system.decode(run(steps)).clamp(-1, 1) + 1) / 2


def theirs(folder: Path, pipeline: Pipeline, steps: int, **options: Any) -> Tensor:
    """diffusers' picture from the same noise."""
    found = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    found.set_progress_bar_config(disable=True)
    latents = SamplingRNG(0, [0]).start(pipeline.shape).float()
    if "Flux" in pipeline.name:
        latents = found._pack_latents(latents, 1, *latents.shape[1:])
    height, width = SIZE
    return found(
        PROMPT, height=height, width=width, num_inference_steps=steps, latents=latents, output_type="pt", **options
    ).images


def sampling_of(pipeline: Pipeline, steps: int, guidance: float) -> Sampling:
    return dataclasses.replace(pipeline.sampling, steps=steps, guidance=guidance)


CASES = {
    "stable_diffusion": (8, 7.5, {"guidance_scale": 7.5, "negative_prompt": NEGATIVE}),
    "sdxl": (7, 5.0, {"guidance_scale": 5.0, "negative_prompt": NEGATIVE}),
    "sd3": (6, 7.0, {"guidance_scale": 7.0, "negative_prompt": NEGATIVE}),
    "flux": (5, 3.5, {"guidance_scale": 3.5}),
    "schnell": (4, 1.0, {"guidance_scale": 0.0, "max_sequence_length": 256}),
}


@pytest.mark.parametrize("family", CASES)
def test_the_same_picture(folders: dict[str, Path], family: str) -> None:
    steps, guidance, options = CASES[family]
    pipeline = open_pipeline(folders[family], SIZE)
    found = ours(pipeline, sampling_of(pipeline, steps, guidance))
    expected = theirs(folders[family], pipeline, steps, **options)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_without_a_negative_prompt_sdxl_moves_away_from_zeros(folders: dict[str, Path]) -> None:
    pipeline = open_pipeline(folders["sdxl"], SIZE)
    found = ours(pipeline, sampling_of(pipeline, 4, 5.0), avoid=None)
    expected = theirs(folders["sdxl"], pipeline, 4, guidance_scale=5.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


SCHEDULERS = {
    "v, as Stable Diffusion 2": DDIMScheduler(
        **SCALED, prediction_type="v_prediction", set_alpha_to_one=False, clip_sample=False
    ),
    "ddim to clean data": DDIMScheduler(**SCALED, clip_sample=False),
    "zero terminal SNR": DDIMScheduler(
        **SCALED,
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ),
    "pndm to clean data": PNDMScheduler(**SCALED, skip_prk_steps=True, set_alpha_to_one=True),
    "euler, linspace": EulerDiscreteScheduler(**SCALED),
    "euler, trailing": EulerDiscreteScheduler(**SCALED, timestep_spacing="trailing"),
    "euler, karras": EulerDiscreteScheduler(**SCALED, use_karras_sigmas=True),
    "dpm++ 2m": DPMSolverMultistepScheduler(**SCALED),
    "dpm++ 2m, leading": DPMSolverMultistepScheduler(**SCALED, timestep_spacing="leading"),
    "dpm++ 3m": DPMSolverMultistepScheduler(**SCALED, solver_order=3, timestep_spacing="trailing"),
    "unipc": UniPCMultistepScheduler(**SCALED),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_other_schedulers(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "pipeline"
    folder.mkdir()
    for part in folders["stable_diffusion"].iterdir():
        if part.name != "scheduler":
            (folder / part.name).symlink_to(part)
    SCHEDULERS[name].save_pretrained(folder / "scheduler")
    (folder / "model_index.json").unlink()
    index = (folders["stable_diffusion"] / "model_index.json").read_text()
    (folder / "model_index.json").write_text(index.replace("PNDMScheduler", type(SCHEDULERS[name]).__name__))
    pipeline = open_pipeline(folder, SIZE)
    steps = 16 if name == "dpm++ 3m" else 5  # in fewer than 15, theirs takes a lower order at the end
    found = ours(pipeline, sampling_of(pipeline, steps, 4.0))
    expected = theirs(folder, pipeline, steps, guidance_scale=4.0, negative_prompt=NEGATIVE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl", "sd3", "flux"])
def test_faster_samplers_run_on_the_same_folder(folders: dict[str, Path], family: str) -> None:
    """All end in the same picture, and come nearer to it the more steps they take."""
    pipeline = open_pipeline(folders[family], 16)

    def picture(name: str, steps: int) -> Tensor:
        method = dataclasses.replace(
            pipeline.sampling, sampler=SAMPLERS[name].sampler, grid=trailing, steps=steps, guidance=2.0
        )
        return ours(pipeline, method)

    fine = picture("heun", 100)
    for name in ("dpmpp_2m", "heun", "unipc"):
        coarse, finer = (float((picture(name, steps) - fine).abs().mean()) for steps in (6, 40))
        assert finer < 0.7 * coarse


def test_a_base_that_hands_off_to_itself_is_not_interrupted(folders: dict[str, Path]) -> None:
    base = open_pipeline(folders["sdxl"], 16)
    asked, avoid = {"caption": [PROMPT, "dog"]}, {"caption": [NEGATIVE]}
    whole = base.system.sample(
        SamplingRNG(0, [0, 1]),
        base.shape,
        asked,
        dataclasses.replace(base.sampling, steps=10, guidance=5.0),
        avoid,
    )
    found = hand_off(base, base, SamplingRNG(0, [0, 1]), asked, steps=10, avoid=avoid)
    torch.testing.assert_close(found, run(whole), rtol=0, atol=1e-6)


def test_base_and_refiner_as_in_diffusers(folders: dict[str, Path]) -> None:
    base, refiner = open_pipeline(folders["sdxl"], SIZE), open_pipeline(folders["refiner"], SIZE)
    found = hand_off(
        base, refiner, SamplingRNG(0, [0]), {"caption": [PROMPT]}, steps=10, avoid={"caption": [NEGATIVE]}, guidance=5.0
    )
    first, second = (
        DiffusionPipeline.from_pretrained(folders[name], local_files_only=True) for name in ("sdxl", "refiner")
    )
    common = {"num_inference_steps": 10, "guidance_scale": 5.0, "negative_prompt": NEGATIVE, "output_type": "latent"}
    noise = SamplingRNG(0, [0]).start(base.shape).float()
    half = first(PROMPT, height=SIZE[0], width=SIZE[1], latents=noise, denoising_end=0.8, **common).images
    expected = second(PROMPT, image=half, denoising_start=0.8, **common).images
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_size_and_crop_reach_the_network(folders: dict[str, Path]) -> None:
    """Another size or crop than the usual changes the network's condition, and so its output."""
    base = open_pipeline(folders["sdxl"], SIZE)
    asked = {"caption": [PROMPT]}
    plain, cropped = conditions(base, asked), conditions(base, {**asked, "crop": (5, 9)})
    x = SamplingRNG(0, [0]).start(base.shape).float()
    with torch.no_grad():
        one, other = (base.system.denoiser.bind(cond)(x, torch.tensor(500.0)) for cond in (plain, cropped))
    assert (one - other).abs().max() > 1e-3
    same = conditions(base, {**asked, "size": SIZE, "target": SIZE, "crop": (0, 0)})
    assert plain.vector is not None and same.vector is not None and torch.equal(plain.vector, same.vector)


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl", "sd3", "flux", "schnell"])
def test_prepared_is_unprepared(folders: dict[str, Path], family: str) -> None:
    """What sampling runs (condition read once, guidance in one batch) is the plain network, twice."""
    pipeline = open_pipeline(folders[family], 16)
    denoiser, words = pipeline.system.denoiser, pipeline.system.conditioner
    x = SamplingRNG(0, [0, 1]).start(pipeline.shape).float()
    asked = {"caption": [PROMPT, "dog"]}
    t = torch.tensor(0.6 if denoiser.schedule.noisiest == 1 else 600.0, dtype=torch.float64)
    with torch.no_grad():
        text_cond = words(asked)
        plain, nothing = denoiser(x, t, text_cond), denoiser(x, t, words.null(2))
        torch.testing.assert_close(denoiser.bind(text_cond)(x, t), plain, rtol=0, atol=1e-5 * float(plain.abs().max()))
        found = pipeline.system.guided(3.0).bind(text_cond)(x, t)
    expected = nothing + 3.0 * (plain - nothing)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl", "sd3", "flux"])
def test_bfloat16(folders: dict[str, Path], family: str) -> None:
    """Half the memory for about the same picture; SDXL's autoencoder stays in float32."""
    whole, half = open_pipeline(folders[family], 16), open_pipeline(folders[family], 16, torch.bfloat16)
    assert half.system.like.dtype == torch.bfloat16
    if family == "sdxl":
        assert {value.dtype for value in half.system.codec.parameters()} == {torch.float32}
    found, expected = (ours(pipeline, sampling_of(pipeline, 3, 2.0)) for pipeline in (half, whole))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)
