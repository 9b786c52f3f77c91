"""Latent diffusion: a U-Net that reads captions, in the code of an autoencoder (Rombach et al. 2022, 2112.10752)."""

from __future__ import annotations

from core.autoencoder import KLAutoencoder, Plan
from core.autoencoder.net import sd_vae
from core.codec import Latents
from core.denoiser import Denoiser, thousandths
from core.grid import trailing
from core.nn import text_unet_plan as unet
from core.nn.text import TextEncoder
from core.nn.text_unet import TextUNet
from core.objective import LogitNormal, Objective, epsilon, flow, indices
from core.prediction import Epsilon, FlowVelocity
from core.recipe import Recipe, Sampling, Training, build, tiny_training
from core.sample.ddim import ddim
from core.sample.dpm import dpmpp_2m
from core.schedule import Discrete, Flow, scaled_linear_betas
from core.systems.diffusion import Diffusion
from core.text.words import Words
from core.train.ema import Constant, Power
from image.captioned import SEMANTIC_LOGIT, captioned_recipe, digits_recipe
from image.latent import SMALL_AUTOENCODER, TINY_AUTOENCODER, from_autoencoder
from image.own import own_training
from image.own_latents import TEXT_UNET_SIZES, OwnLatents, text_unet
from image.presets import tiny_plan


def paper(data: str, autoencoder: str, size: int = 256) -> Recipe:
    """Text to image with 1.4 B parameters in the code of KL-f8, on captioned pictures (2112.10752, table 15)."""

    def system() -> Diffusion:
        plan = unet.Plan(4, 4, unet.SD_WIDTHS, unet.SD_DEPTHS, text_width=1280)
        denoiser = Denoiser(TextUNet(plan), Discrete(scaled_linear_betas()), Epsilon())
        words = Words(TextEncoder(1280, 32, 8, 77, rows=30_522))
        return Diffusion(denoiser, words, Latents(KLAutoencoder(sd_vae())), Objective(indices, epsilon, drop=0.1))

    training = Training(680, 390_000, 1e-4, warmup=6_800_000, ema={"ema": Constant(0.9999)})
    sampling = Sampling(ddim, trailing, steps=200, guidance=10.0)
    start = from_autoencoder(autoencoder, build(SMALL_AUTOENCODER, {"data": data, "size": size}))
    return captioned_recipe(system, (4, size // 8, size // 8), sampling, training, data, size, start)


def small(data: str, autoencoder: str = "", size: int = 128, width: int = 128) -> Recipe:
    """On your captioned pictures, in the code of a small KL-f8: a day on one GPU."""

    def system() -> Diffusion:
        plan = unet.Plan(4, 4, (width, 2 * width, 4 * width), (0, 1, 1), text_width=256, head_width=64)
        denoiser = Denoiser(TextUNet(plan), Flow(), FlowVelocity(), thousandths)
        codec = Latents(KLAutoencoder(Plan(widths=(64, 128, 256, 256))))
        return Diffusion(denoiser, Words(TextEncoder(256, 6, 4, 77)), codec, Objective(LogitNormal(), flow, drop=0.1))

    training = Training(256, 200_000, 3e-4, warmup=1_280_000, ema={"ema": Power(0.05)})
    sampling = Sampling(dpmpp_2m, trailing, steps=25, guidance=4.0)
    start = from_autoencoder(autoencoder, build(SMALL_AUTOENCODER, {"data": data, "size": size}))
    return captioned_recipe(system, (4, size // 8, size // 8), sampling, training, data, size, start)


def own(
    data: str,
    size: tuple[int, ...] = (),
    channels: int = 3,
    mirror: bool = False,
    autoencoder: str = "",
    fold: int = 0,
    latent_width: int = 32,
    latent: int = 4,
    width: int = 32,
    depth: int = 1,
    text_width: int = 64,
    length: int = 24,
    dropout: float = 0.0,
    batch: int = 64,
    steps: int = 10_000,
    lr: float = 2e-3,
    warmup: int = 500,
) -> Recipe:
    """Your own captioned pictures, both stages sized to them, to your machine and to the time you give."""
    latents = OwnLatents(data, size, channels, mirror, fold, latent_width, latent)

    def system() -> Diffusion:
        net = text_unet(latents.plan.code, latents.grid, width, depth, text_width, dropout)
        return latents.system(net, Words(TextEncoder(text_width, 2, 4, length)))

    return latents.recipe(system, autoencoder, own_training(batch, steps, lr, warmup), TEXT_UNET_SIZES)


def tiny(
    autoencoder: str = "",
    width: int = 32,
    text_width: int = 64,
    steps: int = 5_500,
    batch: int = 128,
    lr: float = 2.5e-3,
    count: int = 50_000,
) -> Recipe:
    """The built-in captioned digits, 32 x 32: half an hour on two CPU cores with its autoencoder."""

    def system() -> Diffusion:
        widths = (width, 2 * width, 3 * width)
        plan = unet.Plan(4, 4, widths, (1, 1, 1), text_width, blocks=1, head_width=width, groups=8)
        denoiser = Denoiser(TextUNet(plan), Flow(), FlowVelocity(), thousandths)
        words = Words(TextEncoder(text_width, 2, 4, 24))
        codec = Latents(KLAutoencoder(tiny_plan(4)))
        return Diffusion(denoiser, words, codec, Objective(LogitNormal(SEMANTIC_LOGIT), flow, drop=0.1))

    training = tiny_training(batch, steps, lr)
    sampling = Sampling(dpmpp_2m, trailing, steps=20, guidance=4.0)
    start = from_autoencoder(autoencoder, build(TINY_AUTOENCODER, {"count": count}))
    return digits_recipe(system, (4, 8, 8), sampling, training, count, start)
