"""Stable Diffusion 1 and 2: latent diffusion at scale, of noise or of v (Rombach et al. 2022, 2112.10752)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from core.autoencoder import KLAutoencoder, Plan
from core.autoencoder.net import sd_vae
from core.codec import Latents
from core.denoiser import Denoiser
from core.grid import leading, trailing
from core.nn import text_unet_plan as unet
from core.nn.text import TextEncoder
from core.nn.text_unet import TextUNet
from core.objective import Objective, epsilon, indices, velocity
from core.prediction import Epsilon, V
from core.recipe import Recipe, Sampling, Training, build, tiny_training
from core.sample.ddim import ddim
from core.sample.dpm import dpmpp_2m
from core.sample.solvers.plms import plms
from core.sample.step import Sampler
from core.schedule import Discrete, scaled_linear_betas
from core.systems.diffusion import Diffusion
from core.text.words import Words
from core.train.ema import Constant, Power
from image.captioned import captioned_recipe, digits_recipe
from image.latent import SMALL_AUTOENCODER, TINY_AUTOENCODER, from_autoencoder
from image.presets import tiny_plan

STEPS = partial(leading, offset=1)  # 981, 961, ... 1 with the published 50 steps


def paper(data: str, autoencoder: str, size: int = 512) -> Recipe:
    """Stable Diffusion 1 (860 M), on captioned pictures: noise, PLMS in 50 steps, guidance 7.5."""
    return _published(unet.sd1(), clip, False, plms, 431_000, data, autoencoder, size)


def sd2(data: str, autoencoder: str, size: int = 512) -> Recipe:
    """Stable Diffusion 2 base (866 M): a wider text, heads of 64 channels, noise; DDIM."""
    return _published(unet.sd2(), openclip, False, ddim, 1_400_000, data, autoencoder, size)


def sd2_v(data: str, autoencoder: str, size: int = 768) -> Recipe:
    """Stable Diffusion 2 at 768 x 768, which predicts v."""
    return _published(unet.sd2(), openclip, True, ddim, 290_000, data, autoencoder, size)


def small(data: str, autoencoder: str = "", size: int = 128, width: int = 128, v: bool = False) -> Recipe:
    """On your captioned pictures, in the code of a small KL-f8, of noise or v: a day on one GPU."""

    def system() -> Diffusion:
        plan = unet.Plan(4, 4, (width, 2 * width, 4 * width), (1, 1, 0), text_width=256, linear=True)
        codec = Latents(KLAutoencoder(Plan(widths=(64, 128, 256, 256))))
        return Diffusion(denoiser(plan, v), Words(TextEncoder(256, 6, 4, 77)), codec, objective(v))

    training = Training(256, 200_000, 3e-4, warmup=1_280_000, ema={"ema": Power(0.05)})
    start = from_autoencoder(autoencoder, build(SMALL_AUTOENCODER, {"data": data, "size": size}))
    sampling = Sampling(dpmpp_2m, trailing, steps=25, guidance=4.0)
    return captioned_recipe(system, (4, size // 8, size // 8), sampling, training, data, size, start)


def tiny(
    autoencoder: str = "",
    width: int = 32,
    text_width: int = 64,
    v: bool = False,
    steps: int = 9_000,
    batch: int = 64,
    lr: float = 2e-3,
    count: int = 50_000,
) -> Recipe:
    """The built-in captioned digits, 32 x 32, of noise or v: half an hour on two CPU cores with its autoencoder."""

    def system() -> Diffusion:
        widths = (width, 2 * width, 3 * width)
        plan = unet.Plan(4, 4, widths, (1, 1, 1), text_width, blocks=1, head_width=width, groups=8, linear=True)
        words = Words(TextEncoder(text_width, 2, 4, 24))
        return Diffusion(denoiser(plan, v), words, Latents(KLAutoencoder(tiny_plan(4))), objective(v))

    training = tiny_training(batch, steps, lr)
    start = from_autoencoder(autoencoder, build(TINY_AUTOENCODER, {"count": count}))
    return digits_recipe(
        system, (4, 8, 8), Sampling(dpmpp_2m, trailing, steps=20, guidance=4.0), training, count, start
    )


def denoiser(plan: unet.Plan, v: bool) -> Denoiser:
    """The U-Net of a plan on the published table of betas."""
    return Denoiser(TextUNet(plan), Discrete(scaled_linear_betas()), V() if v else Epsilon())


def objective(v: bool) -> Objective:
    """The plain squared error of what is predicted, at uniform indices; a tenth of the captions is left out."""
    return Objective(indices, velocity if v else epsilon, drop=0.1)


def clip() -> TextEncoder:
    """A text encoder with the sizes of CLIP ViT-L/14's."""
    return TextEncoder(768, 12, 12, 77, rows=49_408)


def openclip() -> TextEncoder:
    """A text encoder with the sizes of OpenCLIP ViT-H/14's, without its last layer."""
    return TextEncoder(1024, 23, 16, 77, rows=49_408)


def _published(
    plan: unet.Plan,
    words: Callable[[], TextEncoder],
    v: bool,
    sampler: Sampler,
    steps: int,
    data: str,
    autoencoder: str,
    size: int,
) -> Recipe:
    """A network of the published size, with a text encoder of the published sizes that learns its own language."""

    def system() -> Diffusion:
        codec = Latents(KLAutoencoder(sd_vae()), 0.18215)
        return Diffusion(denoiser(plan, v), Words(words()), codec, objective(v))

    training = Training(2048, steps, 1e-4, warmup=20_480_000, ema={"ema": Constant(0.9999)})
    sampling = Sampling(sampler, STEPS, steps=50, guidance=7.5)
    start = from_autoencoder(autoencoder, build(SMALL_AUTOENCODER, {"data": data, "size": size}))
    return captioned_recipe(system, (4, size // 8, size // 8), sampling, training, data, size, start)
