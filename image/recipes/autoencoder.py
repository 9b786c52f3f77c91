"""The autoencoder of latent diffusion, with its losses (Rombach et al. 2022, 2112.10752)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from core.autoencoder import KLAutoencoder, Plan, VQAutoencoder
from core.autoencoder.adversary import PatchDiscriminator
from core.autoencoder.net import sd_vae
from core.autoencoder.perceptual import Perceptual
from core.grid import trailing
from core.recipe import Recipe, Sampling, Training, tiny_training
from core.sample.heun import heun
from core.systems.autoencoder import AutoencoderTraining, Weights
from core.train.ema import Constant
from image.captions import captioned_digits
from image.defaults import image_files
from image.features import timm_maps
from image.modality import MODALITY
from image.own import own_pictures, own_training
from image.own_latents import AUTOENCODER_SIZES, divided_size, own_plan
from image.presets import tiny_plan

UNUSED = Sampling(heun, trailing, 1)  # an autoencoder makes no samples by itself


def paper(data: str, features: str, size: int = 256) -> Recipe:
    """KL-f8 on your images, with a perceptual loss in VGG-16's features (a file of timm's weights) and a PatchGAN."""

    def system() -> AutoencoderTraining:
        feature_maps = timm_maps("vgg16", Path(features))
        return AutoencoderTraining(KLAutoencoder(sd_vae()), Weights(), Perceptual(feature_maps), PatchDiscriminator())

    training = Training(12, 360_000, 5.4e-5, betas=(0.5, 0.9), clip=None, ema={"ema": Constant(0.999)})
    return Recipe(system, (4, size // 8, size // 8), UNUSED, training, image_files(data, size), MODALITY)


def small(data: str, size: int = 128, latent: int = 4) -> Recipe:
    """KL-f8 of a quarter of the width on your images, without perceptual loss: hours on one GPU."""

    def system() -> AutoencoderTraining:
        plan = Plan(latent=latent, widths=(64, 128, 256, 256))
        return AutoencoderTraining(
            KLAutoencoder(plan), Weights(squared=1.0, discriminator_start=2_000_000), None, PatchDiscriminator()
        )

    training = Training(32, 200_000, 2e-4, warmup=100_000, betas=(0.5, 0.9), ema={"ema": Constant(0.999)})
    return Recipe(system, (latent, size // 8, size // 8), UNUSED, training, image_files(data, size), MODALITY)


def own(
    data: str,
    size: tuple[int, ...] = (),
    channels: int = 3,
    mirror: bool = False,
    fold: int = 0,
    width: int = 32,
    latent: int = 4,
    batch: int = 32,
    steps: int = 3_000,
    lr: float = 2e-3,
    warmup: int = 100,
) -> Recipe:
    """KL-f4 on your own pictures, sized to them, to your machine and to the time you give."""
    plan = own_plan(channels, size, fold, width, latent)

    def system() -> AutoencoderTraining:
        return AutoencoderTraining(KLAutoencoder(plan), Weights(squared=1.0, kl=1e-3))

    training = replace(own_training(batch, steps, lr, warmup), ema={"ema": Constant(0.99)})
    height, across = divided_size(size, plan.factor)
    return Recipe(
        system,
        (latent, height // plan.factor, across // plan.factor),
        UNUSED,
        training,
        own_pictures(data, (height, across), channels, mirror),
        MODALITY,
        sizes=AUTOENCODER_SIZES,
    )


def tiny(latent: int = 4, steps: int = 1500, batch: int = 32, lr: float = 2e-3, count: int = 50_000) -> Recipe:
    """KL-f4 on the built-in captioned digits, 32 x 32: four minutes on one core."""

    def system() -> AutoencoderTraining:
        # So much divergence costs no sharpness, and leaves less in the code for a diffusion model to learn.
        return AutoencoderTraining(KLAutoencoder(tiny_plan(latent)), Weights(squared=1.0, kl=5e-3))

    return _on_digits(system, latent, steps, batch, lr, count)


def vq(entries: int = 1024, steps: int = 2000, batch: int = 32, lr: float = 2e-3, count: int = 50_000) -> Recipe:
    """VQ-f4 with 3 channels on the built-in captioned digits: four minutes on one core."""

    def system() -> AutoencoderTraining:
        plan = Plan(latent=3, widths=(16, 48, 64), blocks=1, groups=8, middle_attention=False, embedded=3)
        return AutoencoderTraining(VQAutoencoder(plan, entries), Weights(squared=1.0))

    return _on_digits(system, 3, steps, batch, lr, count)


def _on_digits(
    system: Callable[[], AutoencoderTraining], latent: int, steps: int, batch: int, lr: float, count: int
) -> Recipe:
    """A recipe on ``count`` captioned digits."""
    training = replace(tiny_training(batch, steps, lr, 100), ema={"ema": Constant(0.99)})
    return Recipe(system, (latent, 8, 8), UNUSED, training, lambda: captioned_digits(count), MODALITY)
