"""The published inpainting network: nine channels, in the order and by the numbers of diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from core.cond import Cond
from core.denoiser import Denoiser
from core.edit import masked_condition
from core.guidance import Guided
from core.prediction import Epsilon
from core.random import SamplingRNG
from core.sample.ddim import ddim
from core.sample.step import run
from core.schedule import Discrete, scaled_linear_betas
from core.weights.autoencoder import load_diffusers as load_autoencoder
from core.weights.text_unet import load_diffusers as load_unet
from tests.support.parameters import randomise
from tests.support.pipelines import SCALED, UNET, autoencoder, clip, clip_tokenizer

SIZE, SCALE = 32, 0.18215


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionInpaintPipeline:
    folder = tmp_path_factory.mktemp("inpaint")
    tokenizer = clip_tokenizer(folder / "words")
    coder = autoencoder(4, SCALE)
    with torch.no_grad():  # a posterior without spread, so that both encode alike
        coder.quant_conv.weight[4:] = 0
        coder.quant_conv.bias[4:] = -60
    made = StableDiffusionInpaintPipeline(
        vae=coder,
        text_encoder=clip(tokenizer, 32, seed=1),
        tokenizer=tokenizer,
        unet=randomise(UNet2DConditionModel(**UNET | {"in_channels": 9}), 2),
        scheduler=DDIMScheduler(set_alpha_to_one=False, clip_sample=False, timestep_spacing="leading", **SCALED),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.save_pretrained(folder / "saved")
    made.set_progress_bar_config(disable=True)
    made.folder = folder / "saved"
    return made


def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return Image.fromarray(values)


def mask() -> Image.Image:
    values = np.zeros((SIZE, SIZE), dtype=np.uint8)
    values[5:20, 12:] = 255
    return Image.fromarray(values)


def described(pipeline: StableDiffusionInpaintPipeline) -> Cond:
    """Ours: the picture with the masked part at mid-grey, its code, and the mask."""
    pixels = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None].float() / 127.5 - 1
    hole = torch.from_numpy(np.array(mask()))[None, None].float() / 255
    coder = load_autoencoder(Path(pipeline.folder) / "vae")
    coder = coder[0] if isinstance(coder, tuple) else coder
    return masked_condition(SCALE * coder.encode(pixels * (hole < 0.5)).mean, hole)


@torch.no_grad()
def test_the_network_takes_latents_mask_and_masked_latents(pipeline: StableDiffusionInpaintPipeline) -> None:
    """What diffusers' network is given at its first step, channel by channel."""
    given: list[Tensor] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda net, inputs: given.append(inputs[0].clone()))
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    pipeline(
        "a cat",
        picture(),
        mask(),
        height=SIZE,
        width=SIZE,
        num_inference_steps=2,
        guidance_scale=1.0,
        latents=latents,
        strength=1.0,
        output_type="latent",
    )
    hook.remove()
    mask_cond = described(pipeline).concat
    assert mask_cond is not None and given[0].shape == (1, 9, 16, 16)
    torch.testing.assert_close(given[0], torch.cat([latents, mask_cond], dim=1), rtol=0, atol=1e-5)
    assert 0 < float(mask_cond[:, 0].mean()) < 1


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_whole_walk_is_that_of_diffusers(pipeline: StableDiffusionInpaintPipeline, guidance: float) -> None:
    """Guidance keeps picture and mask in both of its branches, because the null does not fill their slot."""
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    expected = pipeline(
        "a red cat",
        picture(),
        mask(),
        height=SIZE,
        width=SIZE,
        num_inference_steps=5,
        guidance_scale=guidance,
        latents=latents,
        strength=1.0,
        output_type="latent",
    ).images
    text_tokens, nothing = (
        pipeline.text_encoder(
            torch.tensor(pipeline.tokenizer(words, padding="max_length", max_length=77)["input_ids"])[None]
        )[0]
        for words in ("a red cat", "")
    )
    net = load_unet(Path(pipeline.folder) / "unet")
    net = net[0] if isinstance(net, tuple) else net
    denoiser = Denoiser(net, Discrete(scaled_linear_betas()), Epsilon())
    mask_cond = described(pipeline)
    cond = Cond(tokens=text_tokens, concat=mask_cond.concat)
    pipeline.scheduler.set_timesteps(5)
    # diffusers' last step goes to the table's first entry, which this scheduler keeps for clean data.
    times = torch.tensor([*pipeline.scheduler.timesteps.tolist(), 0], dtype=torch.float64)
    made = run(ddim(Guided(denoiser, Cond(tokens=nothing), guidance).bind(cond), latents, times, SamplingRNG(0, [0])))
    assert (made - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))
