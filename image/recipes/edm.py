"""EDM: preconditioned denoising with log-normal noise levels (Karras et al. 2022, 2206.00364)."""

from __future__ import annotations

from torch import Tensor

from core.condition import ClassLabel, Conditioner
from core.denoiser import Denoiser
from core.grid import karras
from core.nn.folded import Folded
from core.nn.unet import UNet, adm
from core.objective import EDMWeight, LogNormal, Objective
from core.prediction import F
from core.recipe import Recipe, Sampling, Training, linear
from core.sample.heun import heun
from core.schedule import EDM
from core.systems.diffusion import Diffusion
from core.train.ema import Constant, Power
from image.defaults import flip, image_files, image_recipe, real_digits
from image.nn.ncsnpp import ddpmpp_cifar10
from image.own import OwnPictures, Shape, UNetSizes, own_training, unet_recipe


def c_noise(sigma: Tensor) -> Tensor:
    """``1000 log(sigma) / 4``: the paper's c_noise in the range that sinusoids are made for."""
    return 250 * sigma.log()


def paper(data: str, classes: int = 10) -> Recipe:
    """CIFAR-10 with the DDPM++ network, 200M images (2206.00364, table 7)."""

    def system() -> Diffusion:
        objective = Objective(LogNormal(-1.2, 1.2), EDMWeight(0.5))
        conditioner = ClassLabel(classes, 4 * 128) if classes else Conditioner()
        return Diffusion(Denoiser(ddpmpp_cifar10(), EDM(), F(0.5), c_noise), conditioner, objective=objective)

    training = Training(512, 390_625, 1e-3, warmup=10_000_000, ema={"ema": Constant(0.99929)}, augment=flip)
    return image_recipe(system, (3, 32, 32), image_files(data, 32), Sampling(heun, karras, steps=18), training, classes)


def small(data: str, size: int = 32, channels: int = 3, classes: int = 0, width: int = 128) -> Recipe:
    """An ADM network on your own images, a folder or an .npz file: hours on one GPU."""

    def system() -> Diffusion:
        net = adm(size, width, (1, 2, 2, 2), 2, dropout=0.1, channels=channels, learned_variance=False)
        conditioner = ClassLabel(classes, net.embedded) if classes else Conditioner()
        objective = Objective(LogNormal(-1.2, 1.2), EDMWeight(0.5), drop=0.1 if classes else 0.0)
        return Diffusion(Denoiser(net, EDM(), F(0.5), c_noise), conditioner, objective=objective)

    training = Training(256, 200_000, 5e-4, warmup=2_560_000, ema={"ema": Power(0.05), "long": Power(0.1)})
    sampling = Sampling(heun, karras, steps=18)
    return image_recipe(system, (channels, size, size), image_files(data, size, channels), sampling, training, classes)


def own(
    data: str,
    size: tuple[int, ...] = (),
    channels: int = 3,
    mirror: bool = False,
    classes: tuple[str, ...] = (),
    deviation: float = 0.5,
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
        denoiser = Denoiser(net, EDM(cleanest=0.005, noisiest=80 * deviation), F(deviation), c_noise)
        return denoiser, Objective(LogNormal(-0.8, 1.4), EDMWeight(deviation), drop=shape.drop)

    sampling, training = Sampling(heun, karras, steps=18), own_training(batch, steps, lr, warmup)
    return unet_recipe(OwnPictures(data, shape, mirror), UNetSizes(width, depth, dropout), make, sampling, training)


def tiny(width: int = 32, dropout: float = 0.1, steps: int = 2500, batch: int = 64, lr: float = 2e-3) -> Recipe:
    """Scikit-learn's real handwritten digits, by class: minutes on two CPU cores."""

    def system() -> Diffusion:
        net = UNet(1, 1, width, (1, 2, 2), 1, (1, 2), dropout=dropout, groups=8, head_width=width, scale_shift=True)
        denoiser = Denoiser(net, EDM(cleanest=0.01, noisiest=20.0), F(0.75), c_noise)
        objective = Objective(LogNormal(-0.6, 1.2), EDMWeight(0.75), drop=0.1)
        return Diffusion(denoiser, ClassLabel(10, net.embedded, deviation=1.0), objective=objective)

    training = Training(batch, steps, lr, steps * batch // 50, linear, betas=(0.9, 0.99), ema={"ema": Power(0.055)})
    return image_recipe(system, (1, 8, 8), real_digits, Sampling(heun, karras, steps=18), training, classes=10)
