"""Flux: text and image as two streams, then one, on a straight path (Black Forest Labs, 2024; 2403.03206)."""

from __future__ import annotations

from pathlib import Path

from core.autoencoder import KLAutoencoder, Plan
from core.autoencoder.net import sd3_vae
from core.codec import Latents
from core.denoiser import Denoiser, thousandths
from core.distill import GuidanceDistillation, Teacher, embed_guidance, load_partial
from core.grid import shifted, trailing
from core.model import Model
from core.nn.flux import Flux, flux_dev, flux_schnell
from core.nn.folded import Folded
from core.nn.text import TextEncoder
from core.objective import LogitNormal, Objective, flow
from core.prediction import FlowVelocity
from core.recipe import Initialize, Recipe, Sampling, Training, build, load, tiny_training
from core.sample.dpm import dpmpp_2m
from core.sample.euler import euler
from core.schedule import Flow, shift_from_mu
from core.systems.diffusion import Diffusion
from core.systems.system import System
from core.text.words import Words
from core.train.ema import Constant, Power
from core.train.run import Run
from core.train.state import newest
from core.weights.checkpoint import CheckpointError
from image.captioned import SEMANTIC_LOGIT, captioned_recipe, digits_recipe
from image.latent import SMALL_AUTOENCODER, TINY_AUTOENCODER, from_autoencoder
from image.own import own_training
from image.own_latents import FLUX_SIZES, OwnLatents
from image.presets import tiny_plan

SCALES = (1.0, 6.0)  # the guidance that students learn
LATENT = 16  # channels of the code of FLUX.1's autoencoder, scaled by 0.3611 after a shift by 0.1159


def paper(data: str, teacher: str, size: int = 1024, length: int = 512) -> Recipe:
    """FLUX.1 dev, on captioned pictures: distilled from the guidance of a run of schnell's network; 28 steps."""

    def system() -> Diffusion:
        denoiser = Denoiser(flux_dev(), Flow(), FlowVelocity(), thousandths)
        words = published_words(length).requires_grad_(False)
        objective = GuidanceDistillation(
            Teacher(lambda: open_teacher(teacher).diffusion.denoiser), words.null, SCALES, LogitNormal(), flow
        )
        return Diffusion(denoiser, words, published_latents(), objective)

    tokens = (size // 16) ** 2
    sampling = Sampling(euler, shifted(trailing, shift_from_mu(tokens)), steps=28, guidance=3.5, guide=embed_guidance)
    training = Training(256, 50_000, 1e-5, warmup=256_000, ema={"ema": Constant(0.999)})
    return captioned_recipe(
        system, (LATENT, size // 8, size // 8), sampling, training, data, size, from_teacher(teacher)
    )


def schnell(data: str, autoencoder: str, size: int = 1024, length: int = 256) -> Recipe:
    """FLUX.1 schnell's network, on captioned pictures; its 4 steps are for weights distilled to few steps."""

    def system() -> Diffusion:
        denoiser = Denoiser(flux_schnell(), Flow(), FlowVelocity(), thousandths)
        objective = Objective(LogitNormal(), flow, drop=0.1)
        return Diffusion(denoiser, published_words(length), published_latents(), objective)

    training = Training(1024, 500_000, 1e-4, warmup=1_024_000, ema={"ema": Constant(0.9999)})
    start = from_autoencoder(autoencoder, build(SMALL_AUTOENCODER, {"data": data, "size": size, "latent": LATENT}))
    sampling = Sampling(euler, trailing, steps=4)
    return captioned_recipe(system, (LATENT, size // 8, size // 8), sampling, training, data, size, start)


def small(
    data: str, autoencoder: str = "", size: int = 256, heads: int = 8, doubles: int = 4, singles: int = 8
) -> Recipe:
    """On your captioned pictures, in the code of a small KL-f8: a day on one GPU."""

    def system() -> Diffusion:
        net = Flux(LATENT, heads, doubles, singles, 256, 256, (8, 28, 28), guided=False)
        denoiser = Denoiser(net, Flow(), FlowVelocity(), thousandths)
        codec = Latents(KLAutoencoder(Plan(latent=LATENT, widths=(64, 128, 256, 256))))
        words = Words(TextEncoder(256, 6, 4, 77), vector=256)
        return Diffusion(denoiser, words, codec, Objective(LogitNormal(), flow, drop=0.1))

    training = Training(256, 200_000, 3e-4, warmup=1_280_000, ema={"ema": Power(0.05)})
    start = from_autoencoder(autoencoder, build(SMALL_AUTOENCODER, {"data": data, "size": size, "latent": LATENT}))
    grid = shifted(trailing, shift_from_mu((size // 16) ** 2))
    sampling = Sampling(dpmpp_2m, grid, steps=25, guidance=4.0)
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
    doubles: int = 2,
    singles: int = 4,
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
        net = Flux(latent, heads, doubles, singles, text_width, text_width, (4, 14, 14), 2, guided=False)
        return latents.system(Folded(net, 1, 2), Words(TextEncoder(text_width, 2, 4, length), vector=text_width))

    return latents.recipe(system, autoencoder, own_training(batch, steps, lr, warmup), FLUX_SIZES)


def tiny(
    autoencoder: str = "",
    heads: int = 4,
    doubles: int = 2,
    singles: int = 4,
    patch: int = 2,
    text_width: int = 64,
    steps: int = 4_600,
    batch: int = 128,
    lr: float = 1.4e-3,
    count: int = 50_000,
) -> Recipe:
    """The built-in captioned digits, 32 x 32: half an hour on two CPU cores with its autoencoder."""

    def system() -> Diffusion:
        objective = Objective(LogitNormal(SEMANTIC_LOGIT), flow, drop=0.1)
        words = tiny_words(text_width)
        return Diffusion(
            tiny_denoiser(heads, doubles, singles, patch, text_width, False), words, tiny_latents(), objective
        )

    training = tiny_training(batch, steps, lr)
    sampling = Sampling(dpmpp_2m, trailing, steps=20, guidance=3.0)
    start = from_autoencoder(autoencoder, build(TINY_AUTOENCODER, {"count": count}))
    return digits_recipe(system, (4, 8, 8), sampling, training, count, start)


def distilled(
    teacher: str,
    heads: int = 4,
    doubles: int = 2,
    singles: int = 4,
    patch: int = 2,
    text_width: int = 64,
    steps: int = 2_000,
    batch: int = 64,
    lr: float = 3e-4,
    count: int = 50_000,
) -> Recipe:
    """A tiny Flux with a guidance embedding: one network call where its ``teacher``, a tiny one, needs two."""

    def system() -> Diffusion:
        words = tiny_words(text_width).requires_grad_(False)
        objective = GuidanceDistillation(
            Teacher(lambda: open_teacher(teacher).diffusion.denoiser),
            words.null,
            SCALES,
            LogitNormal(SEMANTIC_LOGIT),
            flow,
        )
        return Diffusion(
            tiny_denoiser(heads, doubles, singles, patch, text_width, True), words, tiny_latents(), objective
        )

    training = tiny_training(batch, steps, lr, 50)
    sampling = Sampling(dpmpp_2m, trailing, steps=20, guidance=3.0, guide=embed_guidance)
    return digits_recipe(system, (4, 8, 8), sampling, training, count, from_teacher(teacher))


def tiny_denoiser(heads: int, doubles: int, singles: int, patch: int, text_width: int, guided: bool) -> Denoiser:
    """The network of the tiny presets, heads of 32."""
    net = Flux(4, heads, doubles, singles, text_width, text_width, (4, 14, 14), patch, guided)
    return Denoiser(net, Flow(), FlowVelocity(), thousandths)


def tiny_words(width: int) -> Words:
    """The text encoder of the tiny presets."""
    return Words(TextEncoder(width, 2, 4, 24), vector=width)


def tiny_latents() -> Latents:
    """The code of the tiny presets."""
    return Latents(KLAutoencoder(tiny_plan(4)))


def published_words(length: int) -> Words:
    """A text encoder with the sizes of T5-XXL and CLIP-L's pooled vector, which learns its own language."""
    return Words(TextEncoder(4096, 24, 64, length, rows=32_128), vector=768)


def published_latents() -> Latents:
    """The code of FLUX.1's autoencoder."""
    return Latents(KLAutoencoder(sd3_vae()), 0.3611, 0.1159)


def open_teacher(teacher: str) -> Model:
    """The teacher of a checkpoint, or of a run's folder. Raises CheckpointError where there is no such model."""
    path = Path(teacher)
    loaded = load(newest(path) or path if path.is_dir() else path)
    net = loaded.diffusion.denoiser.net
    if not isinstance(net, Flux) or net.guidance is not None:
        raise CheckpointError(f"{teacher} is no Flux that works with guidance: give a run of `langevin train flux`")
    return loaded


def from_teacher(teacher: str) -> Initialize:
    """Initialize a run from its teacher's weights."""

    def start(system: System, run: Run) -> None:
        load_partial(system, open_teacher(teacher).system.state_dict())

    return start
