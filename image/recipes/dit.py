"""DiT: a transformer in place of the U-Net, steered by adaLN-Zero (Peebles and Xie 2022, 2212.09748)."""

from __future__ import annotations

from functools import partial

from core.condition import ClassLabel
from core.denoiser import Denoiser
from core.grid import trailing
from core.nn.dit import DiT, Patches, dit_xl
from core.nn.folded import Folded
from core.objective import EDMWeight, LogNormal, Objective, epsilon, indices
from core.prediction import Epsilon, F, LearnedRange
from core.recipe import Recipe, Sampling, Training, linear
from core.sample.ddpm import ddpm, learned
from core.sample.dpm import dpmpp_2m
from core.schedule import VP, Discrete, linear_betas
from core.systems.diffusion import Diffusion
from core.train.ema import Constant, Power
from image.defaults import flip, image_files, image_recipe, real_digits
from image.own import DIT_SIZES, OwnPictures, Shape, class_conditioner, own_training


def paper(data: str, classes: int = 1000, size: int = 32) -> Recipe:
    """DiT-XL/2 on an .npz file of 4-channel latents, learned variance, guidance 4 (2212.09748, section 4)."""

    def system() -> Diffusion:
        net = dit_xl(2, size)
        denoiser = Denoiser(net, Discrete(linear_betas()), LearnedRange(Epsilon()))
        objective = Objective(indices, epsilon, drop=0.1, bound=1.0)
        return Diffusion(denoiser, ClassLabel(classes, net.front.width), objective=objective)

    training = Training(256, 7_000_000, 1e-4, ema={"ema": Constant(0.9999)})
    sampling = Sampling(partial(ddpm, deviation=learned), trailing, steps=250, guidance=4.0)
    return image_recipe(system, (4, size, size), image_files(data, size, 4), sampling, training, classes)


def small(data: str, size: int = 32, channels: int = 3, classes: int = 10) -> Recipe:
    """DiT-S on your own images by class, patches of 2: hours on one GPU."""

    def system() -> Diffusion:
        net = DiT(Patches((size, size), channels, 384, 2), depth=12, heads=6)
        denoiser = Denoiser(net, VP(), F(0.5), lambda t: 999 * t)
        objective = Objective(LogNormal(-0.8, 1.4), EDMWeight(0.5), drop=0.1)
        return Diffusion(denoiser, ClassLabel(classes, net.front.width), objective=objective)

    training = Training(256, 200_000, 3e-4, warmup=1_280_000, ema={"ema": Power(0.05)}, augment=flip)
    sampling = Sampling(dpmpp_2m, trailing, steps=30, guidance=1.5)
    return image_recipe(system, (channels, size, size), image_files(data, size, channels), sampling, training, classes)


def own(
    data: str,
    size: tuple[int, ...] = (),
    channels: int = 3,
    mirror: bool = False,
    classes: tuple[str, ...] = (),
    deviation: float = 0.5,
    fold: int = 0,
    width: int = 128,
    depth: int = 6,
    dropout: float = 0.0,
    batch: int = 64,
    steps: int = 10_000,
    lr: float = 1e-3,
    warmup: int = 500,
) -> Recipe:
    """Your own pictures, by class where they have classes; sized to them, to your machine and to the time you give."""

    shape = Shape(size, channels, classes, fold)

    def system() -> Diffusion:
        padded = tuple(-(-side // shape.fold) * shape.fold for side in shape.sides)
        net = DiT(Patches(padded, channels, width, shape.fold), depth, heads=max(1, width // 32))
        denoiser = Denoiser(Folded(net, 1, shape.fold), VP(), F(deviation), lambda t: 999 * t)
        objective = Objective(LogNormal(-0.8, 1.4), EDMWeight(deviation), drop=shape.drop)
        return Diffusion(denoiser, class_conditioner(shape, width), objective=objective)

    training = own_training(batch, steps, lr, warmup)
    return OwnPictures(data, shape, mirror).recipe(system, Sampling(dpmpp_2m, trailing, steps=25), training, DIT_SIZES)


def tiny(width: int = 128, depth: int = 6, steps: int = 2500, batch: int = 64, lr: float = 1e-3) -> Recipe:
    """Scikit-learn's real handwritten digits, by class, patches of 2: minutes on two CPU cores."""

    def system() -> Diffusion:
        net = DiT(Patches((8, 8), 1, width, 2), depth, heads=max(1, width // 32))
        denoiser = Denoiser(net, VP(), F(0.75), lambda t: 999 * t)
        objective = Objective(LogNormal(-0.6, 1.4), EDMWeight(0.75), drop=0.1)
        return Diffusion(denoiser, ClassLabel(10, width), objective=objective)

    training = Training(batch, steps, lr, steps * batch // 20, linear, betas=(0.9, 0.99), ema={"ema": Power(0.055)})
    return image_recipe(system, (1, 8, 8), real_digits, Sampling(dpmpp_2m, trailing, steps=25), training, classes=10)
