"""MDM: a transformer that predicts the clean motion (Tevet et al. 2022, 2209.14916)."""

from __future__ import annotations

from dataclasses import replace

from core.denoiser import Denoiser
from core.grid import trailing
from core.objective import Objective, indices, velocity
from core.prediction import X0
from core.recipe import Recipe, Sampling, Training, tiny_training
from core.sample.ddpm import ddpm
from core.sample.dpm import dpmpp_2m
from core.schedule import Discrete, cosine_betas
from core.systems.diffusion import Diffusion
from core.train.ema import Constant, Power
from motion.data import LONGEST
from motion.generator import normal_of
from motion.nn.mdm import MDM, Decoder, mdm
from motion.own import SIZES, opened, own_guidance, own_recipe, own_training
from motion.presets import (
    SEMANTIC_LEVELS,
    clamped_weight,
    default_guidance,
    geometric_loss,
    procedural_recipe,
    text_conditioner,
)
from motion.skeleton import HUMAN
from motion.windows import FRAMES


def paper(data: str) -> Recipe:
    """The published network, schedule and sampler, on HumanML3D (2209.14916, section 4).

    Its captions go through an encoder trained with it, in place of CLIP's.
    """

    def system() -> Diffusion:
        denoiser = Denoiser(mdm(HUMAN.features), Discrete(cosine_betas()), X0())
        return Diffusion(denoiser, text_conditioner(512, 512, 4, 80), objective=Objective(indices, drop=0.1))

    training = Training(64, 600_000, 1e-4, ema={"ema": Constant(0.9999)})
    sampling = Sampling(ddpm, trailing, steps=1000, guidance=2.5)
    return own_recipe(system, opened(data, LONGEST), LONGEST, sampling, training)


def small(data: str, width: int = 384, depth: int = 8) -> Recipe:
    """On HumanML3D or your own recordings, each word read by itself: hours on one GPU."""

    def system() -> Diffusion:
        net = MDM(HUMAN.features, width, Decoder(width, 2 * width, depth, 6), 256, words=True)
        denoiser = Denoiser(net, Discrete(cosine_betas()), X0())
        return Diffusion(denoiser, text_conditioner(256, depth=4, length=80), objective=Objective(indices, drop=0.1))

    training = Training(64, 200_000, 2e-4, warmup=64_000, ema={"ema": Power(0.05)})
    parts = opened(data, LONGEST)
    sampling = Sampling(dpmpp_2m, trailing, steps=30, guidance=2.5, guide=own_guidance(parts))
    return own_recipe(system, parts, LONGEST, sampling, training)


def own(
    data: str,
    frames: int = FRAMES,
    width: int = 128,
    depth: int = 4,
    text_width: int = 64,
    length: int = 40,
    dropout: float = 0.1,
    geometry: float = 100.0,
    batch: int = 48,
    steps: int = 8000,
    lr: float = 1.25e-3,
    warmup: int = 100,
) -> Recipe:
    """Recordings of your own, by class or caption as they have them; sized to them, your machine and your time."""
    parts = opened(data, frames)

    def system() -> Diffusion:
        net = MDM(HUMAN.features, width, Decoder(width, 2 * width, depth, 4, dropout), text_width, words=True)
        denoiser = Denoiser(net, Discrete(cosine_betas()), X0())
        auxiliary = geometric_loss(lambda: parts().normal, geometry)
        objective = Objective(SEMANTIC_LEVELS, clamped_weight(velocity), drop=0.1, auxiliary_loss=auxiliary)
        return Diffusion(denoiser, text_conditioner(text_width, length=length), objective=objective)

    sampling = Sampling(dpmpp_2m, trailing, steps=20, guidance=2.5, guide=own_guidance(parts))
    return own_recipe(system, parts, frames, sampling, own_training(batch, steps, lr, warmup), SIZES)


def tiny(
    width: int = 128,
    depth: int = 4,
    text_width: int = 64,
    steps: int = 5000,
    batch: int = 48,
    lr: float = 1.25e-3,
    geometry: float = 100.0,
    count: int = 20_000,
    seconds: float = 600.0,
) -> Recipe:
    """The built-in procedural motions, each word read by itself: eleven minutes on two CPU cores.

    geometry: the weight of the losses in square metres; seconds: of the processor, after which training ends with the
    steps that it has made. Small noise counts for more than published, because a short training leaves limbs shaking.
    """

    def system() -> Diffusion:
        net = MDM(HUMAN.features, width, Decoder(width, 2 * width, depth, 4, dropout=0.0), text_width, words=True)
        denoiser = Denoiser(net, Discrete(cosine_betas()), X0())
        objective = Objective(
            SEMANTIC_LEVELS, clamped_weight(velocity), drop=0.1, auxiliary_loss=geometric_loss(normal_of, geometry)
        )
        return Diffusion(denoiser, text_conditioner(text_width), objective=objective)

    training = replace(tiny_training(batch, steps, lr, 100), seconds=seconds)
    return procedural_recipe(
        system, Sampling(dpmpp_2m, trailing, steps=20, guidance=2.5, guide=default_guidance()), training, count
    )
