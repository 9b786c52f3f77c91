"""Score-based SDEs: VE, VP and sub-VP, with NCSN++ and DDPM++ (Song et al. 2020, 2011.13456)."""

from __future__ import annotations

from torch import Tensor

from core.codec import Codec, Scale
from core.denoiser import Denoiser
from core.grid import linspace
from core.nn.folded import Folded
from core.objective import Objective, epsilon
from core.prediction import Epsilon
from core.recipe import Recipe, Sampling, Training, linear
from core.sample.solvers.predictor_corrector import euler_maruyama, predictor_corrector
from core.schedule import VE, VP, SubVP
from core.systems.diffusion import Diffusion
from core.train.ema import Constant, Power
from image.defaults import flip, image_files, image_recipe, real_digits
from image.nn.fir import BOX, FIR
from image.nn.ncsnpp import InputResidual, LogFourier, NCSNpp, Positional, ddpmpp_cifar10, ncsnpp_256, ncsnpp_cifar10
from image.own import OwnPictures, Shape, UNetSizes, own_training, unet_recipe


def paper_ve(data: str, deep: bool = False) -> Recipe:
    """VE on CIFAR-10: NCSN++ (continuous), predictor-corrector (2011.13456, tables 2 and 3)."""
    return image_recipe(
        lambda: variance_exploding(ncsnpp_cifar10(8 if deep else 4), VE()),
        (3, 32, 32),
        image_files(data, 32),
        Sampling(predictor_corrector, linspace, steps=1000),
        published(1_300_000, 0.999),
    )


def paper_ve_256(data: str) -> Recipe:
    """VE at 256 x 256: NCSN++ with input and output pyramids, 65.6M parameters (2011.13456, appendix H)."""
    return image_recipe(
        lambda: variance_exploding(ncsnpp_256(), VE(sigma_max=348.0)),
        (3, 256, 256),
        image_files(data, 256),
        Sampling(predictor_corrector, linspace, steps=2000),
        published(2_400_000, 0.999, batch=64),
    )


def paper_vp(data: str, deep: bool = False) -> Recipe:
    """VP on CIFAR-10: DDPM++ (continuous), Euler-Maruyama (2011.13456, table 3)."""
    return image_recipe(
        lambda: variance_preserving(ddpmpp_cifar10(8 if deep else 4), VP()),
        (3, 32, 32),
        image_files(data, 32),
        Sampling(euler_maruyama, linspace, steps=1000),
        published(1_300_000, 0.9999),
    )


def paper_subvp(data: str, deep: bool = False) -> Recipe:
    """Sub-VP on CIFAR-10: DDPM++ (continuous), the best likelihood (2011.13456, table 3)."""
    return image_recipe(
        lambda: variance_preserving(ddpmpp_cifar10(8 if deep else 4), SubVP()),
        (3, 32, 32),
        image_files(data, 32),
        Sampling(euler_maruyama, linspace, steps=1000),
        published(1_300_000, 0.9999),
    )


def small(data: str, size: int = 32, channels: int = 3, width: int = 64) -> Recipe:
    """VP with a narrow DDPM++ on your own images: hours on one GPU."""

    def system() -> Diffusion:
        widths = (width, 2 * width, 2 * width, 2 * width)
        net = NCSNpp(Positional(width), widths, 2, (1,), BOX, channels=channels, dropout=0.1)
        return variance_preserving(net, VP())

    sampling = Sampling(euler_maruyama, linspace, steps=500)
    return image_recipe(
        system, (channels, size, size), image_files(data, size, channels), sampling, published(200_000, 0.9999)
    )


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
    """Your own pictures on a VP path, by class where they have classes; sized to them, your machine and your time."""
    shape = Shape(size, channels, classes, fold)

    def make(net: Folded) -> tuple[Denoiser, Objective]:
        objective = Objective(weight=epsilon, drop=shape.drop)
        return Denoiser(net, VP(), Epsilon(), lambda t: 999 * t), objective

    sampling = Sampling(predictor_corrector, linspace, steps=200)
    training = own_training(batch, steps, lr, warmup)
    return unet_recipe(OwnPictures(data, shape, mirror), UNetSizes(width, depth, dropout), make, sampling, training)


def tiny(width: int = 32, dropout: float = 0.1, steps: int = 2500, batch: int = 64, lr: float = 2e-3) -> Recipe:
    """VP on scikit-learn's real handwritten digits: minutes on two CPU cores."""

    def system() -> Diffusion:
        net = NCSNpp(Positional(width), (width, 2 * width), 1, (1,), BOX, channels=1, dropout=dropout)
        return variance_preserving(net, VP())

    sampling = Sampling(predictor_corrector, linspace, steps=200)
    return image_recipe(system, (1, 8, 8), real_digits, sampling, short_training(steps, batch, lr))


def tiny_subvp(width: int = 32, dropout: float = 0.1, steps: int = 2500, batch: int = 64, lr: float = 2e-3) -> Recipe:
    """Sub-VP on the same digits."""

    def system() -> Diffusion:
        net = NCSNpp(Positional(width), (width, 2 * width), 1, (1,), BOX, channels=1, dropout=dropout)
        return variance_preserving(net, SubVP())

    sampling = Sampling(predictor_corrector, linspace, steps=200)
    return image_recipe(system, (1, 8, 8), real_digits, sampling, short_training(steps, batch, lr))


def tiny_ve(width: int = 32, dropout: float = 0.1, steps: int = 2500, batch: int = 64, lr: float = 2e-3) -> Recipe:
    """VE with a small NCSN++ on the same digits."""

    def system() -> Diffusion:
        features = LogFourier(width // 2)
        net = NCSNpp(
            features,
            (width, 2 * width),
            1,
            (1,),
            FIR,
            progressive_input=InputResidual,
            channels=1,
            dropout=dropout,
            centre=True,
        )
        return variance_exploding(net, VE(sigma_max=10.0))

    sampling = Sampling(predictor_corrector, linspace, steps=200)
    return image_recipe(system, (1, 8, 8), real_digits, sampling, short_training(steps, batch, lr))


def variance_exploding(net: NCSNpp, schedule: VE) -> Diffusion:
    """Data in [0, 1]; the network takes sigma and predicts the noise."""

    def sigma(t: Tensor) -> Tensor:
        return schedule(t)[1]

    halves = Scale(factor=0.5, shift=-1.0)  # [-1, 1] -> [0, 1]
    return Diffusion(Denoiser(net, schedule, Epsilon(), sigma), codec=halves, objective=Objective(weight=epsilon))


def variance_preserving(net: NCSNpp, schedule: VP | SubVP) -> Diffusion:
    """Data in [-1, 1]; the network takes 999 t and predicts the noise."""
    denoiser = Denoiser(net, schedule, Epsilon(), lambda t: 999 * t)
    return Diffusion(denoiser, codec=Codec(), objective=Objective(weight=epsilon))


def published(steps: int, decay: float, batch: int = 128) -> Training:
    """Adam 2e-4 with a warm-up of 5,000 steps (2011.13456, appendix H)."""
    return Training(batch, steps, 2e-4, warmup=5000 * batch, ema={"ema": Constant(decay)}, augment=flip)


def short_training(steps: int, batch: int, lr: float) -> Training:
    """Minutes: a learning rate that falls to zero, and an average over the last of it."""
    return Training(batch, steps, lr, steps * batch // 50, linear, betas=(0.9, 0.99), ema={"ema": Power(0.055)})
