"""MotionDiffuse: linear attention over frames and words, which predicts the noise (Zhang et al. 2022, 2208.15001)."""

from __future__ import annotations

from dataclasses import replace

from core.denoiser import Denoiser
from core.grid import trailing
from core.objective import Objective, epsilon, indices, velocity
from core.prediction import X0, Epsilon
from core.recipe import Recipe, Sampling, Training, tiny_training
from core.sample.ddpm import ddpm
from core.sample.dpm import dpmpp_2m
from core.schedule import Discrete, linear_betas
from core.systems.diffusion import Diffusion
from core.train.ema import Constant, Power
from motion.data import LONGEST
from motion.generator import normal_of
from motion.nn.motiondiffuse import MotionDiffuse
from motion.own import SIZES, opened, own_guidance, own_recipe, own_training
from motion.presets import (
    SHAPE,
    clamped_weight,
    default_guidance,
    geometric_loss,
    procedural_recipe,
    text_conditioner,
)
from motion.skeleton import HUMAN
from motion.windows import FRAMES


def paper(data: str) -> Recipe:
    """The published network, schedule and sampler, without guidance, on HumanML3D (2208.15001, section 4).

    Its captions go through an encoder trained with it, in place of CLIP's and the layers on it.
    """

    def system() -> Diffusion:
        denoiser = Denoiser(MotionDiffuse(HUMAN.features), Discrete(linear_betas()), Epsilon())
        return Diffusion(denoiser, text_conditioner(256, 2048, 4, 80), objective=Objective(indices, epsilon))

    training = Training(1024, 100_000, 2e-4, clip=0.5, ema={"ema": Constant(0.9999)})
    return own_recipe(system, opened(data, LONGEST), LONGEST, Sampling(ddpm, trailing, steps=1000), training)


def small(data: str, width: int = 256, depth: int = 6) -> Recipe:
    """On HumanML3D or your own recordings: hours on one GPU."""

    def system() -> Diffusion:
        net = MotionDiffuse(HUMAN.features, width=width, hidden=2 * width, depth=depth)
        denoiser = Denoiser(net, Discrete(linear_betas()), Epsilon())
        return Diffusion(
            denoiser, text_conditioner(256, 4 * width, 4, 80), objective=Objective(indices, epsilon, drop=0.1)
        )

    training = Training(128, 100_000, 2e-4, clip=0.5, ema={"ema": Power(0.05)})
    parts = opened(data, LONGEST)
    sampling = Sampling(dpmpp_2m, trailing, steps=30, guidance=2.0, guide=own_guidance(parts))
    return own_recipe(system, parts, LONGEST, sampling, training)


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
    """The built-in procedural motions: eleven minutes on two CPU cores.

    It predicts the clean motion: a frame's 263 numbers of noise do not fit through so narrow a network.
    geometry: the weight of the losses in square metres; seconds: of the processor, after which training ends with the
    steps that it has made.
    """

    def system() -> Diffusion:
        net = MotionDiffuse(HUMAN.features, SHAPE[0], width, 2 * width, depth, 4, text_width)
        denoiser = Denoiser(net, Discrete(linear_betas()), X0())
        objective = Objective(
            indices, clamped_weight(velocity), drop=0.1, auxiliary_loss=geometric_loss(normal_of, geometry)
        )
        return Diffusion(denoiser, text_conditioner(text_width, 4 * width), objective=objective)

    training = replace(tiny_training(batch, steps, lr, 100), seconds=seconds)
    return procedural_recipe(
        system, Sampling(dpmpp_2m, trailing, steps=30, guidance=2.0, guide=default_guidance()), training, count
    )


def own(
    data: str,
    frames: int = FRAMES,
    width: int = 128,
    depth: int = 4,
    text_width: int = 64,
    length: int = 40,
    geometry: float = 100.0,
    batch: int = 48,
    steps: int = 8000,
    lr: float = 1.25e-3,
    warmup: int = 100,
    dropout: float = 0.1,
) -> Recipe:
    """Your own recordings, asked for by class or caption, in a network that fits them, the machine and the time."""
    parts = opened(data, frames)

    def system() -> Diffusion:
        net = MotionDiffuse(HUMAN.features, frames, width, 2 * width, depth, 4, text_width, dropout=dropout)
        denoiser = Denoiser(net, Discrete(linear_betas()), X0())
        auxiliary = geometric_loss(lambda: parts().normal, geometry)
        objective = Objective(indices, clamped_weight(velocity), drop=0.1, auxiliary_loss=auxiliary)
        return Diffusion(denoiser, text_conditioner(text_width, 4 * width, length=length), objective=objective)

    sampling = Sampling(dpmpp_2m, trailing, steps=30, guidance=2.0, guide=own_guidance(parts))
    return own_recipe(system, parts, frames, sampling, own_training(batch, steps, lr, warmup), SIZES)
