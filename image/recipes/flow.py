"""Rectified flow: the velocity of a straight path from data to noise (Liu et al. 2022, 2209.03003; 2403.03206)."""

from __future__ import annotations

from core.condition import ClassLabel, Conditioner
from core.denoiser import Denoiser, thousandths
from core.grid import trailing
from core.nn.folded import Folded
from core.nn.unet import UNet, adm
from core.objective import LogitNormal, Objective, flow
from core.prediction import FlowVelocity
from core.recipe import Recipe, Sampling, Training, linear
from core.sample.heun import heun
from core.sample.solvers.rungekutta import adaptive
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.train.ema import Constant, Power
from image.defaults import flip, image_files, image_recipe, real_digits
from image.nn.ncsnpp import ddpmpp_cifar10
from image.own import OwnPictures, Shape, UNetSizes, own_training, unet_recipe


def paper(data: str) -> Recipe:
    """CIFAR-10 with the DDPM++ network, times uniform, an adaptive solver (2209.03003, section 5.2)."""

    def system() -> Diffusion:
        denoiser = Denoiser(ddpmpp_cifar10(), Flow(), FlowVelocity(), thousandths)
        return Diffusion(denoiser, objective=Objective(weight=flow))

    training = Training(128, 800_000, 2e-4, warmup=640_000, ema={"ema": Constant(0.999999)}, augment=flip)
    return image_recipe(system, (3, 32, 32), image_files(data, 32), Sampling(adaptive, trailing, steps=1), training)


def small(data: str, size: int = 32, channels: int = 3, classes: int = 0, width: int = 128) -> Recipe:
    """An ADM network on your own images, logit-normal times: hours on one GPU."""

    def system() -> Diffusion:
        net = adm(size, width, (1, 2, 2, 2), 2, dropout=0.1, channels=channels, learned_variance=False)
        conditioner = ClassLabel(classes, net.embedded) if classes else Conditioner()
        objective = Objective(LogitNormal(), flow, drop=0.1 if classes else 0.0)
        return Diffusion(Denoiser(net, Flow(), FlowVelocity(), thousandths), conditioner, objective=objective)

    training = Training(256, 200_000, 5e-4, warmup=2_560_000)
    sampling = Sampling(heun, trailing, steps=25)
    return image_recipe(system, (channels, size, size), image_files(data, size, channels), sampling, training, classes)


def own(
    data: str,
    size: tuple[int, ...] = (),
    channels: int = 3,
    mirror: bool = False,
    classes: tuple[str, ...] = (),
    fold: int = 0,
    width: int = 32,
    depth: int = 1,
    dropout: float = 0.0,
    batch: int = 64,
    steps: int = 10_000,
    lr: float = 2e-3,
    warmup: int = 500,
) -> Recipe:
    """Your own pictures, by class where they have classes; sized to them, to your machine and to the time you give."""
    shape = Shape(size, channels, classes, fold)

    def make(net: Folded) -> tuple[Denoiser, Objective]:
        objective = Objective(LogitNormal(), flow, drop=shape.drop)
        return Denoiser(net, Flow(), FlowVelocity(), thousandths), objective

    sampling, training = Sampling(heun, trailing, steps=18), own_training(batch, steps, lr, warmup)
    return unet_recipe(OwnPictures(data, shape, mirror), UNetSizes(width, depth, dropout), make, sampling, training)


def tiny(width: int = 32, dropout: float = 0.1, steps: int = 2500, batch: int = 64, lr: float = 2e-3) -> Recipe:
    """Scikit-learn's real handwritten digits, by class: minutes on two CPU cores."""

    def system() -> Diffusion:
        net = UNet(1, 1, width, (1, 2, 2), 1, (1, 2), dropout=dropout, groups=8, head_width=width, scale_shift=True)
        denoiser = Denoiser(net, Flow(), FlowVelocity(), thousandths)
        objective = Objective(LogitNormal(), flow, drop=0.1)
        return Diffusion(denoiser, ClassLabel(10, net.embedded, deviation=1.0), objective=objective)

    training = Training(batch, steps, lr, steps * batch // 50, linear, betas=(0.9, 0.99), ema={"ema": Power(0.055)})
    return image_recipe(system, (1, 8, 8), real_digits, Sampling(heun, trailing, steps=18), training, classes=10)
