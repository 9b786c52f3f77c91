"""What benchmarks/latent.py measures: the same task with the same weights, once by diffusers and once by this package.

Each case writes a random network as diffusers writes it. ``theirs`` and ``ours`` load that folder and return a function
that does the task once: ten guided steps of a sampler, or one decoding. Steps, times and noise are the same, and
both evaluate the two branches of guidance in one batch (diffusers' Flux pipeline makes two calls, which is slower).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from core.cond import Cond
from core.denoiser import Denoiser, DenoiserLike
from core.guidance import Guided
from core.prediction import Epsilon, FlowVelocity
from core.random import SamplingRNG
from core.sample import SAMPLERS
from core.schedule import Discrete, Flow, scaled_linear_betas
from core.systems.compiled import compile_network
from core.weights import autoencoder, flux, mmdit, text_unet

STEPS, GUIDANCE, SIDE, LENGTH, TEXT = 10, 5.0, 32, 77, 256
Task = Callable[[], Tensor]
Finish = Callable[[nn.Module], None]  # what is done to a network before it is used: nothing, or compiling


@dataclass(frozen=True)
class Case:
    """One task, both ways."""

    title: str
    make: Callable[[Path], None]
    theirs: Callable[[Path, torch.device, Finish], Task]
    ours: Callable[[Path, torch.device, Finish], Task]


def plain(net: nn.Module) -> None:
    """The network as it is."""


def compiled_by_torch(net: nn.Module) -> None:
    """The network compiled as PyTorch does it by default."""
    net.compile(dynamic=False)


def randomised(net: Any, folder: Path) -> None:
    """Draw every weight (layers that start at zero would hide work and differences), and write the folder."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in net.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.1 * noise if "norm" in name and name.endswith("weight") else 0.03 * noise)
    net.save_pretrained(folder)


def normal(*shape: int, seed: int, device: torch.device) -> Tensor:
    """The same unit noise for both."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def prompts(device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens (2, L, D) and pooled vectors (2, D) of [unwanted, wanted]."""
    return normal(2, LENGTH, TEXT, seed=1, device=device), normal(2, TEXT, seed=2, device=device)


def conds(vector: bool, device: torch.device, guidance: float | None = None) -> tuple[Cond, Cond]:
    """The unwanted and the wanted condition."""
    tokens, pooled = prompts(device)
    guidance_cond = None if guidance is None else torch.full((1,), guidance, device=device)
    unwanted, wanted = (
        Cond(tokens=tokens[i : i + 1], vector=pooled[i : i + 1] if vector else None, guidance=guidance_cond)
        for i in range(2)
    )
    return unwanted, wanted


def walk(denoiser: Denoiser, cond: Cond, null: Cond, times: Tensor, start: Tensor) -> Task:
    """Our loop: a sampler walks the guided denoiser, bound again for every picture."""
    guided: DenoiserLike = Guided(denoiser, null, GUIDANCE)

    def task() -> Tensor:
        x = start
        for step in SAMPLERS["euler"].sampler(guided.bind(cond), start, times, SamplingRNG(0, range(1))):
            x = step.x
        return x

    return task


def guided_output(both: Tensor) -> Tensor:
    """Guidance as diffusers' pipelines write it."""
    unwanted, wanted = both.chunk(2)
    return unwanted + GUIDANCE * (wanted - unwanted)


def make_unet(folder: Path) -> None:
    net = UNet2DConditionModel(
        sample_size=SIDE, block_out_channels=(64, 128, 256, 256), cross_attention_dim=TEXT, attention_head_dim=8
    )
    randomised(net, folder)


def ddim() -> DDIMScheduler:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(STEPS)
    return scheduler


def their_unet(folder: Path, device: torch.device, finish: Finish) -> Task:
    net, scheduler = UNet2DConditionModel.from_pretrained(folder).to(device).eval(), ddim()
    finish(net)
    tokens, _ = prompts(device)
    start = normal(1, 4, SIDE, SIDE, seed=3, device=device)

    def task() -> Tensor:
        x = start
        for t in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([x] * 2), t)
            output = guided_output(net(both, t, encoder_hidden_states=tokens, return_dict=False)[0])
            x = scheduler.step(output, t, x, return_dict=False)[0]
        return x

    return task


def our_unet(folder: Path, device: torch.device, finish: Finish) -> Task:
    net, _ = text_unet.load_diffusers(folder)
    finish(net.to(device))
    denoiser = Denoiser(net, Discrete(scaled_linear_betas()), Epsilon())
    unwanted, wanted = conds(False, device)
    times = torch.tensor([*ddim().timesteps.tolist(), 0.0], dtype=torch.float64)
    return walk(denoiser, wanted, unwanted, times, normal(1, 4, SIDE, SIDE, seed=3, device=device))


def flow() -> FlowMatchEulerDiscreteScheduler:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    return scheduler


def flow_walk(net: nn.Module, unwanted: Cond, wanted: Cond, start: Tensor) -> Task:
    denoiser = Denoiser(net, Flow(), FlowVelocity(), lambda t: 1000 * t)
    return walk(denoiser, wanted, unwanted, flow().sigmas.double(), start)


def make_mmdit(folder: Path) -> None:
    net = SD3Transformer2DModel(
        sample_size=SIDE,
        num_layers=6,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=TEXT,
        caption_projection_dim=256,
        pooled_projection_dim=TEXT,
        pos_embed_max_size=32,
    )
    randomised(net, folder)


def their_mmdit(folder: Path, device: torch.device, finish: Finish) -> Task:
    net = SD3Transformer2DModel.from_pretrained(folder).to(device).eval()
    finish(net)
    tokens, pooled = prompts(device)
    start = normal(1, 16, SIDE, SIDE, seed=3, device=device)

    def task() -> Tensor:
        x, scheduler = start, flow()
        for t in scheduler.timesteps:
            both = net(torch.cat([x] * 2), tokens, pooled, t.expand(2).to(device), return_dict=False)[0]
            x = scheduler.step(guided_output(both), t, x, return_dict=False)[0]
        return x

    return task


def our_mmdit(folder: Path, device: torch.device, finish: Finish) -> Task:
    net = mmdit.load_diffusers(folder)
    finish(net.to(device))
    return flow_walk(net, *conds(True, device), normal(1, 16, SIDE, SIDE, seed=3, device=device))


def make_flux(folder: Path) -> None:
    net = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=TEXT,
        pooled_projection_dim=TEXT,
        guidance_embeds=True,
        axes_dims_rope=(16, 24, 24),
    )
    randomised(net, folder)


def their_flux(folder: Path, device: torch.device, finish: Finish) -> Task:
    net = FluxTransformer2DModel.from_pretrained(folder).to(device).eval()
    finish(net)
    tokens, pooled = prompts(device)
    start = FluxPipeline._pack_latents(normal(1, 16, SIDE, SIDE, seed=3, device=device), 1, 16, SIDE, SIDE)
    image = FluxPipeline._prepare_latent_image_ids(1, SIDE // 2, SIDE // 2, device, torch.float32)
    text, guidance_cond = torch.zeros(LENGTH, 3, device=device), torch.full((2,), 3.5, device=device)

    def task() -> Tensor:
        x, scheduler = start, flow()
        for t in scheduler.timesteps:
            both = net(
                hidden_states=torch.cat([x] * 2),
                timestep=t.expand(2).to(device) / 1000,
                guidance=guidance_cond,
                pooled_projections=pooled,
                encoder_hidden_states=tokens,
                txt_ids=text,
                img_ids=image,
                return_dict=False,
            )[0]
            x = scheduler.step(guided_output(both), t, x, return_dict=False)[0]
        unpacked: Tensor = FluxPipeline._unpack_latents(x, 8 * SIDE, 8 * SIDE, 8)
        return unpacked

    return task


def our_flux(folder: Path, device: torch.device, finish: Finish) -> Task:
    net = flux.load_diffusers(folder)
    finish(net.to(device))
    return flow_walk(net, *conds(True, device, 3.5), normal(1, 16, SIDE, SIDE, seed=3, device=device))


def make_vae(folder: Path) -> None:
    net = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(64, 128, 256, 256),
        layers_per_block=2,
        latent_channels=4,
    )
    randomised(net, folder)


def their_vae(folder: Path, device: torch.device, finish: Finish) -> Task:
    net = AutoencoderKL.from_pretrained(folder).to(device).eval()
    finish(net.decoder)
    code = normal(1, 4, SIDE, SIDE, seed=3, device=device)
    return lambda: net.decode(code, return_dict=False)[0]


def our_vae(folder: Path, device: torch.device, finish: Finish) -> Task:
    net, _ = autoencoder.load_diffusers(folder)
    finish(net.to(device).decoder)
    code = normal(1, 4, SIDE, SIDE, seed=3, device=device)
    return lambda: net.decode(code)


def make_pipeline(folder: Path) -> None:
    make_unet(folder / "unet")
    make_vae(folder / "vae")
    config = CLIPTextConfig(
        vocab_size=1000,
        hidden_size=TEXT,
        intermediate_size=4 * TEXT,
        num_hidden_layers=6,
        num_attention_heads=4,
        bos_token_id=0,
        eos_token_id=2,
    )
    randomised(CLIPTextModel(config), folder / "text")


def text_of(folder: Path, device: torch.device) -> Task:
    """CLIP's reading of the unwanted and the wanted prompt, by transformers for both: (2, L, D)."""
    clip = CLIPTextModel.from_pretrained(folder / "text").to(device).eval()
    words = torch.randint(0, 1000, (2, LENGTH), generator=torch.Generator().manual_seed(4)).to(device)
    return lambda: clip(words).last_hidden_state


def their_pipeline(folder: Path, device: torch.device, finish: Finish) -> Task:
    read, start = text_of(folder, device), normal(1, 4, SIDE, SIDE, seed=3, device=device)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae").to(device).eval(),
        text_encoder=None,
        tokenizer=None,
        unet=UNet2DConditionModel.from_pretrained(folder / "unet").to(device).eval(),
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    finish(pipeline.unet)
    finish(pipeline.vae.decoder)
    pipeline.set_progress_bar_config(disable=True)

    def task() -> Tensor:
        unwanted, wanted = read().chunk(2)
        made: Tensor = pipeline(
            prompt_embeds=wanted,
            negative_prompt_embeds=unwanted,
            latents=start,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="pt",
        ).images
        return made

    return task


def our_pipeline(folder: Path, device: torch.device, finish: Finish) -> Task:
    read, start = text_of(folder, device), normal(1, 4, SIDE, SIDE, seed=3, device=device)
    net, _ = text_unet.load_diffusers(folder / "unet")
    decoder, latent_config = autoencoder.load_diffusers(folder / "vae")
    finish(net.to(device))
    finish(decoder.to(device).decoder)
    denoiser = Denoiser(net, Discrete(scaled_linear_betas()), Epsilon())
    times = torch.tensor([*ddim().timesteps.tolist(), 0.0], dtype=torch.float64)

    def task() -> Tensor:
        unwanted, wanted = (Cond(tokens=tokens) for tokens in read().chunk(2))
        x = walk(denoiser, wanted, unwanted, times, start)()
        return (decoder.decode(x / latent_config.scale) / 2 + 0.5).clamp(0, 1)

    return task


CASES = {
    "unet": Case("U-Net like Stable Diffusion's, 10 guided steps", make_unet, their_unet, our_unet),
    "mmdit": Case("MMDiT like SD3's, 10 guided steps", make_mmdit, their_mmdit, our_mmdit),
    "flux": Case("Flux, 10 guided steps", make_flux, their_flux, our_flux),
    "vae": Case("KL autoencoder, decoding 256 x 256", make_vae, their_vae, our_vae),
    "pipeline": Case("Text encoder, U-Net and decoder as one pipeline", make_pipeline, their_pipeline, our_pipeline),
}
FINISHES: dict[str, Finish] = {"eager": plain, "compiled": compile_network}
