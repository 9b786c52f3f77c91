"""Stable Diffusion 3: two streams of text and image on a straight path (Esser et al. 2024, 2403.03206)."""

from __future__ import annotations

import math
from collections.abc import Callable

from core.autoencoder import KLAutoencoder, Plan
from core.autoencoder.net import sd3_vae
from core.codec import Latents
from core.denoiser import Denoiser, thousandths
from core.grid import between, linspace, shifted, trailing
from core.nn.folded import Folded
from core.nn.mmdit import MMDiT, sd3_medium, sd35_large, sd35_medium
from core.nn.text import TextEncoder
from core.objective import LogitNormal, Objective, flow
from core.prediction import FlowVelocity
from core.recipe import Recipe, Sampling, Training, build, tiny_training
from core.sample.dpm import dpmpp_2m
from core.sample.euler import euler
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.text.words import Words
from core.train.ema import Constant, Power
from core.train.precision import Precision
from image.captioned import SEMANTIC_LOGIT, captioned_recipe, digits_recipe
from image.latent import SMALL_AUTOENCODER, TINY_AUTOENCODER, from_autoencoder
from image.own import own_training
from image.own_latents import MMDIT_SIZES, OwnLatents
from image.presets import tiny_plan

LATENT = 16  # channels of the code of SD3's autoencoder, scaled by 1.5305 after a shift by 0.0609
SHIFT = 3.0  # of time, at 1024 x 1024
# The published steps are spaced down to the last of training's 1000 shifted times, and then shifted once more.
STEPS = shifted(between(linspace, 1.0, SHIFT / (1000 + SHIFT - 1)), SHIFT)

Published = Callable[[], MMDiT]


def paper(data: str, autoencoder: str, size: int = 1024) -> Recipe:
    """SD3 medium (2 B) on captioned pictures: logit-normal times, 28 steps on a path shifted by 3, guidance 7."""
    return _published(sd3_medium, data, autoencoder, size)


def large(data: str, autoencoder: str, size: int = 1024) -> Recipe:
    """SD3.5 large (8 B), with normalised queries and keys."""
    return _published(sd35_large, data, autoencoder, size)


def medium(data: str, autoencoder: str, size: int = 1024) -> Recipe:
    """SD3.5 medium (MMDiT-X): its first 13 blocks attend to the image twice."""
    return _published(sd35_medium, data, autoencoder, size)


def small(
    data: str, autoencoder: str = "", size: int = 256, heads: int = 8, depth: int = 12, text_width: int = 256
) -> Recipe:
    """On your captioned pictures, in the code of a small KL-f8: a day on one GPU."""

    def system() -> Diffusion:
        net = MMDiT(LATENT, heads, depth, text_width, text_width, size=size // 8, table=size // 8, normed=True)
        words = Words(TextEncoder(text_width, 6, 4, 77), vector=text_width)
        codec = Latents(KLAutoencoder(Plan(latent=LATENT, widths=(64, 128, 256, 256))))
        denoiser = Denoiser(net, Flow(), FlowVelocity(), thousandths)
        return Diffusion(denoiser, words, codec, Objective(LogitNormal(), flow, drop=0.1))

    training = Training(256, 200_000, 3e-4, warmup=1_280_000, ema={"ema": Power(0.05)})
    sampling = Sampling(dpmpp_2m, trailing, steps=25, guidance=4.0)
    start = from_autoencoder(autoencoder, build(SMALL_AUTOENCODER, {"data": data, "size": size, "latent": LATENT}))
    return captioned_recipe(system, (LATENT, size // 8, size // 8), sampling, training, data, size, start)


def own(
    data: str,
    size: tuple[int, ...] = (),
    channels: int = 3,
    mirror: bool = False,
    autoencoder: str = "",
    fold: int = 0,
    latent_width: int = 32,
    latent: int = 4,
    heads: int = 4,
    depth: int = 6,
    text_width: int = 64,
    length: int = 24,
    batch: int = 64,
    steps: int = 10_000,
    lr: float = 1e-3,
    warmup: int = 500,
) -> Recipe:
    """Your own captioned pictures, both stages sized to them, to your machine and to the time you give."""
    latents = OwnLatents(data, size, channels, mirror, fold, latent_width, latent)

    def system() -> Diffusion:
        table = -(-max(latents.grid) // 2)
        net = MMDiT(latent, heads, depth, text_width, text_width, 32, 2, 2 * table, table, normed=True)
        return latents.system(Folded(net, 1, 2), Words(TextEncoder(text_width, 2, 4, length), vector=text_width))

    return latents.recipe(system, autoencoder, own_training(batch, steps, lr, warmup), MMDIT_SIZES)


def tiny(
    autoencoder: str = "",
    heads: int = 4,
    depth: int = 6,
    patch: int = 2,
    text_width: int = 64,
    steps: int = 4_600,
    batch: int = 128,
    lr: float = 1.4e-3,
    count: int = 50_000,
) -> Recipe:
    """The built-in captioned digits, 32 x 32: half an hour on two CPU cores with its autoencoder."""

    def system() -> Diffusion:
        net = MMDiT(4, heads, depth, text_width, text_width, 32, patch, size=8, table=8 // patch, normed=True)
        words = Words(TextEncoder(text_width, 2, 4, 24), vector=text_width)
        denoiser = Denoiser(net, Flow(), FlowVelocity(), thousandths)
        objective = Objective(LogitNormal(SEMANTIC_LOGIT), flow, drop=0.1)
        return Diffusion(denoiser, words, Latents(KLAutoencoder(tiny_plan(4))), objective)

    training = tiny_training(batch, steps, lr)
    sampling = Sampling(dpmpp_2m, trailing, steps=20, guidance=3.0)
    start = from_autoencoder(autoencoder, build(TINY_AUTOENCODER, {"count": count}))
    return digits_recipe(system, (4, 8, 8), sampling, training, count, start)


def _published(net: Published, data: str, autoencoder: str, size: int) -> Recipe:
    """A network of the published size, with a text encoder of T5-XXL's that learns its own language.

    To shift times is to add the shift's logarithm to their logit.
    """

    def system() -> Diffusion:
        words = Words(TextEncoder(4096, 24, 64, 154, rows=32_128), vector=2048)
        denoiser = Denoiser(net(), Flow(), FlowVelocity(), thousandths)
        codec = Latents(KLAutoencoder(sd3_vae()), 1.5305, 0.0609)
        return Diffusion(denoiser, words, codec, Objective(LogitNormal(math.log(SHIFT)), flow, drop=0.1))

    training = Training(
        4096, 500_000, 1e-4, warmup=4_096_000, precision=Precision.BF16, threads=1, ema={"ema": Constant(0.9999)}
    )
    sampling = Sampling(euler, STEPS, steps=28, guidance=7.0)
    start = from_autoencoder(autoencoder, build(SMALL_AUTOENCODER, {"data": data, "size": size, "latent": LATENT}))
    return captioned_recipe(system, (LATENT, size // 8, size // 8), sampling, training, data, size, start)
