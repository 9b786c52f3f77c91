"""A diffusion transformer on the straight path from noise to motion: flow matching, a recipe of our own.

Four frames are one token, so the transformer is wide for its cost. A token then holds more numbers than the transformer
is wide: it cannot pass noise on, so it predicts the clean motion, and its loss is in the path's velocity (2511.13720).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from core.denoiser import Denoiser
from core.grid import shifted, trailing
from core.nn.dit import Sequence
from core.nn.textdit import TextDiT
from core.objective import Objective, flow
from core.objective.loss import AuxiliaryLoss
from core.prediction import X0
from core.recipe import Recipe, Sampling, Training, linear, tiny_training
from core.sample.dpm import dpmpp_2m
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.train.ema import Power
from motion.data import LONGEST
from motion.generator import normal_of
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


def thousandths(t: Tensor) -> Tensor:
    """The time that the network embeds."""
    return 1000 * t


def paper(data: str, width: int = 512, depth: int = 12) -> Recipe:
    """50 million parameters on HumanML3D, comparable with the published systems: a day on one GPU."""
    training = Training(128, 300_000, 2e-4, warmup=128_000, decay=linear, ema={"ema": Power(0.05)})
    return _on_folder(data, width, depth, training)


def small(data: str, width: int = 256, depth: int = 8) -> Recipe:
    """On HumanML3D or your own recordings: hours on one GPU."""
    return _on_folder(data, width, depth, Training(64, 100_000, 3e-4, warmup=64_000, ema={"ema": Power(0.05)}))


def own(
    data: str,
    frames: int = FRAMES,
    width: int = 192,
    depth: int = 6,
    text_width: int = 64,
    length: int = 40,
    geometry: float = 100.0,
    batch: int = 48,
    steps: int = 8000,
    lr: float = 1.25e-3,
    warmup: int = 100,
) -> Recipe:
    """Recordings of your own, by class or caption as they have them; sized to them, your machine and your time."""
    parts = opened(data, frames)

    def system() -> Diffusion:
        heads = max(width // 48, 1)
        return _system(width, depth, heads, text_width, 2, length, geometric_loss(lambda: parts().normal, geometry))

    sampling = Sampling(dpmpp_2m, shifted(trailing, 3.0), steps=20, guidance=2.5, guide=own_guidance(parts))
    return own_recipe(system, parts, frames, sampling, own_training(batch, steps, lr, warmup), SIZES)


def tiny(
    width: int = 192,
    depth: int = 6,
    text_width: int = 64,
    steps: int = 8000,
    batch: int = 48,
    lr: float = 1.25e-3,
    geometry: float = 100.0,
    count: int = 20_000,
    seconds: float = 600.0,
) -> Recipe:
    """The built-in procedural motions: eleven minutes on two CPU cores.

    geometry: the weight of the losses in square metres; seconds: of the processor, after which training ends with the
    steps that it has made.
    """
    training = replace(tiny_training(batch, steps, lr, 100), seconds=seconds)

    def system() -> Diffusion:
        return _system(width, depth, 4, text_width, 2, 40, geometric_loss(normal_of, geometry))

    return procedural_recipe(
        system,
        Sampling(dpmpp_2m, shifted(trailing, 3.0), steps=20, guidance=2.5, guide=default_guidance()),
        training,
        count,
    )


def _on_folder(data: str, width: int, depth: int, training: Training) -> Recipe:
    def system() -> Diffusion:
        return _system(width, depth, width // 64, 256, 4, 80)

    parts = opened(data, LONGEST)
    sampling = Sampling(dpmpp_2m, shifted(trailing, 3.0), steps=25, guidance=3.0, guide=own_guidance(parts))
    return own_recipe(system, parts, LONGEST, sampling, training)


def _system(
    width: int,
    depth: int,
    heads: int,
    text: int,
    text_depth: int,
    length: int,
    auxiliary_loss: AuxiliaryLoss | None = None,
) -> Diffusion:
    net = TextDiT(Sequence(HUMAN.features, width, patch=4), depth, heads, text)
    denoiser = Denoiser(net, Flow(), X0(), thousandths)
    objective = Objective(SEMANTIC_LEVELS, clamped_weight(flow), drop=0.1, auxiliary_loss=auxiliary_loss)
    return Diffusion(denoiser, text_conditioner(text, width, text_depth, length), objective=objective)
