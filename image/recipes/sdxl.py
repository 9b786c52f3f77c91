"""SDXL: a U-Net conditioned on the original size and the crop of a picture, and its refiner (2307.01952)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from core.autoencoder import KLAutoencoder, Plan
from core.autoencoder.net import sd_vae
from core.codec import Latents
from core.data.buckets import bucket_sizes
from core.data.source import Source
from core.denoiser import Denoiser
from core.grid import leading, trailing
from core.nn import text_unet_plan as unet
from core.nn.text import TextEncoder
from core.nn.text_unet import TextUNet
from core.objective import Density, Objective, Offset, Truncated, epsilon, indices
from core.prediction import Epsilon
from core.recipe import Recipe, Sampling, Training, build, tiny_training
from core.sample.dpm import dpmpp_2m
from core.sample.euler import euler
from core.schedule import Discrete, scaled_linear_betas
from core.systems.diffusion import Diffusion
from core.text.words import Words
from core.train.ema import Constant, Power
from image.buckets import Bucketed
from image.captioned import CaptionDropout, captioned_recipe, digits_recipe
from image.condition.micro import NUMBER_COUNT, SCORED_NUMBER_COUNT, MicroConditioning
from image.framed import framed_digits
from image.latent import SMALL_AUTOENCODER, TINY_AUTOENCODER, from_autoencoder
from image.presets import tiny_plan

STEPS = partial(leading, offset=1)  # 981, 961, ... 1 with the published 50 steps
CLEANEST_FIFTH = Truncated(indices, 0.0, 0.2)  # the refiner's times: the first 200 of the table's 1000
SCORE = 6.0  # the aesthetic score of pictures whose data have none
# Size and crop stay true without a caption, so only the caption is dropped.
CAPTION_DROPOUT = CaptionDropout(0.1)


def paper(data: str, autoencoder: str, size: int = 1024) -> Recipe:
    """SDXL's base (2.6 B) on captioned pictures in buckets of their shapes: Euler in 50 steps, guidance 5."""
    encoder = partial(TextEncoder, 2048, 32, 32, 77, rows=49_408)  # as wide as both of the published encoders
    return _published(unet.sdxl(), encoder, None, indices, 800_000, data, autoencoder, size)


def refiner(data: str, autoencoder: str, size: int = 1024) -> Recipe:
    """SDXL's refiner (2.3 B), which learns the cleanest fifth of the table only, conditioned on an aesthetic score."""
    encoder = partial(TextEncoder, 1280, 32, 20, 77, rows=49_408)  # the sizes of OpenCLIP ViT-bigG/14's
    return _published(unet.sdxl_refiner(), encoder, SCORE, CLEANEST_FIFTH, 200_000, data, autoencoder, size)


def small(data: str, autoencoder: str = "", size: int = 256, width: int = 128, batch: int = 256) -> Recipe:
    """On your captioned pictures in buckets of their shapes, in the code of a small KL-f8: a day on one GPU."""

    def system() -> Diffusion:
        widths, vector_width = (width, 2 * width, 4 * width), 256 + 64 * NUMBER_COUNT
        plan = unet.Plan(
            4, 4, widths, (0, 1, 2), 256, middle_depth=2, head_width=64, vector_width=vector_width, linear=True
        )
        words = MicroConditioning(Words(TextEncoder(256, 6, 4, 77), vector=256), (size, size), 64)
        codec = Latents(KLAutoencoder(Plan(widths=(64, 128, 256, 256))))
        return Diffusion(denoiser(plan), words, codec, objective(indices))

    training = Training(batch, 200_000, 3e-4, warmup=1_280_000, ema={"ema": Power(0.05)}, augment=CAPTION_DROPOUT)
    return _in_buckets(system, Sampling(dpmpp_2m, trailing, 25, 4.0), training, data, autoencoder, size)


def tiny(
    autoencoder: str = "",
    width: int = 32,
    text_width: int = 64,
    steps: int = 9_000,
    batch: int = 64,
    lr: float = 2e-3,
    count: int = 50_000,
) -> Recipe:
    """The built-in captioned digits, some of them blurred or cut: half an hour on two cores with its autoencoder."""
    return _tiny(indices, None, autoencoder, width, text_width, steps, batch, lr, count)


def tiny_refiner(
    autoencoder: str = "",
    width: int = 32,
    text_width: int = 64,
    steps: int = 4_000,
    batch: int = 64,
    lr: float = 2e-3,
    count: int = 50_000,
) -> Recipe:
    """A refiner for ``tiny``, in the same autoencoder's code: it takes over for the last fifth of the noise levels."""
    return _tiny(CLEANEST_FIFTH, SCORE, autoencoder, width, text_width, steps, batch, lr, count)


def denoiser(plan: unet.Plan) -> Denoiser:
    """The U-Net of a plan on the published table of betas."""
    return Denoiser(TextUNet(plan), Discrete(scaled_linear_betas()), Epsilon())


def objective(times: Density) -> Objective:
    """The plain squared error of the noise, which has an offset."""
    return Objective(times, epsilon, coupling=Offset(0.05))


def _tiny(
    times: Density,
    score: float | None,
    autoencoder: str,
    width: int,
    text_width: int,
    steps: int,
    batch: int,
    lr: float,
    count: int,
) -> Recipe:
    def system() -> Diffusion:
        widths, vector_width = (
            (width, 2 * width, 3 * width),
            text_width + 16 * (NUMBER_COUNT if score is None else SCORED_NUMBER_COUNT),
        )
        plan = unet.Plan(
            4,
            4,
            widths,
            (1, 1, 1),
            text_width,
            blocks=1,
            head_width=width,
            vector_width=vector_width,
            linear=True,
            groups=8,
        )
        words = MicroConditioning(Words(TextEncoder(text_width, 2, 4, 24), vector=text_width), (32, 32), 16, score)
        return Diffusion(denoiser(plan), words, Latents(KLAutoencoder(tiny_plan(4))), objective(times))

    training = replace(tiny_training(batch, steps, lr), augment=CAPTION_DROPOUT)
    start = from_autoencoder(autoencoder, build(TINY_AUTOENCODER, {"count": count}))
    sampling = Sampling(dpmpp_2m, trailing, steps=20, guidance=4.0)
    return digits_recipe(system, (4, 8, 8), sampling, training, count, start, lambda: framed_digits(count))


def _published(
    plan: unet.Plan,
    encoder: Callable[[], TextEncoder],
    score: float | None,
    times: Density,
    steps: int,
    data: str,
    autoencoder: str,
    size: int,
) -> Recipe:
    """A network of the published size, with a text encoder of the published sizes that learns its own language."""

    def system() -> Diffusion:
        words = MicroConditioning(Words(encoder(), vector=1280), (size, size), 256, score)
        return Diffusion(denoiser(plan), words, Latents(KLAutoencoder(sd_vae()), 0.13025), objective(times))

    ema = {"ema": Constant(0.9999)}
    training = Training(2048, steps, 1e-4, warmup=20_480_000, ema=ema, augment=CAPTION_DROPOUT)
    return _in_buckets(system, Sampling(euler, STEPS, 50, 5.0), training, data, autoencoder, size)


def _in_buckets(
    system: Callable[[], Diffusion], sampling: Sampling, training: Training, data: str, autoencoder: str, size: int
) -> Recipe:
    """A recipe on pictures of your own that keep about their shape, each at the area of a square of ``size``."""
    start = from_autoencoder(autoencoder, build(SMALL_AUTOENCODER, {"data": data, "size": size}))

    def cut(source: Source) -> Bucketed:
        return Bucketed(source, bucket_sizes(size * size), training.batch, random_crop=True)

    return captioned_recipe(system, (4, size // 8, size // 8), sampling, training, data, size, start, cut)
