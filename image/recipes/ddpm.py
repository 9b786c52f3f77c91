"""DDPM and improved DDPM: epsilon prediction on a table of noise levels (Ho et al. 2020, 2006.11239; 2102.09672)."""

from __future__ import annotations

from functools import partial

from core.condition import ClassLabel, Conditioner
from core.denoiser import Denoiser
from core.grid import trailing
from core.nn.folded import Folded
from core.nn.unet import UNet, adm_64, ddpm_256, ddpm_cifar10
from core.objective import Objective, epsilon, indices
from core.prediction import Epsilon, LearnedRange
from core.recipe import Recipe, Sampling, Training, linear
from core.sample.ddpm import ddpm, large, learned
from core.schedule import Discrete, cosine_betas, linear_betas
from core.systems.diffusion import Diffusion
from core.train.ema import Constant, Power
from image.defaults import flip, image_files, image_recipe, real_digits
from image.own import OwnPictures, Shape, UNetSizes, own_training, unet_recipe


def paper(data: str) -> Recipe:
    """CIFAR-10: 35.7M parameters, 1,000 ancestral steps (2006.11239, appendix B)."""

    def system() -> Diffusion:
        return Diffusion(Denoiser(ddpm_cifar10(), Discrete(linear_betas()), Epsilon()), objective=plain())

    training = Training(128, 800_000, 2e-4, warmup=640_000, ema={"ema": Constant(0.9999)}, augment=flip)
    sampling = Sampling(partial(ddpm, deviation=large), trailing, steps=1000)
    return image_recipe(system, (3, 32, 32), image_files(data, 32), sampling, training)


def paper_256(data: str) -> Recipe:
    """LSUN and CelebA-HQ at 256 x 256: 113.7M parameters (2006.11239, appendix B)."""

    def system() -> Diffusion:
        return Diffusion(Denoiser(ddpm_256(), Discrete(linear_betas()), Epsilon()), objective=plain())

    training = Training(64, 2_400_000, 2e-5, warmup=320_000, ema={"ema": Constant(0.9999)}, augment=flip)
    return image_recipe(system, (3, 256, 256), image_files(data, 256), Sampling(ddpm, trailing, steps=1000), training)


def adm_imagenet_64(data: str, classes: int = 1000) -> Recipe:
    """ADM on ImageNet 64 x 64: cosine table, learned variance, by class (2105.05233, appendix I)."""

    def system() -> Diffusion:
        net = adm_64()
        denoiser = Denoiser(net, Discrete(cosine_betas()), LearnedRange(Epsilon()))
        return Diffusion(denoiser, ClassLabel(classes, net.embedded), objective=plain(bound=1.0))

    training = Training(2048, 540_000, 1e-4, ema={"ema": Constant(0.9999)}, augment=flip)
    sampling = Sampling(partial(ddpm, deviation=learned), trailing, steps=250)
    return image_recipe(system, (3, 64, 64), image_files(data, 64), sampling, training, classes)


def small(data: str, size: int = 32, channels: int = 3, classes: int = 0, width: int = 128) -> Recipe:
    """The CIFAR-10 layout on your own images, a folder or an .npz file: hours on one GPU."""

    def system() -> Diffusion:
        net = UNet(
            channels, channels, width, (1, 2, 2, 2), 2, (1,), dropout=0.1, epsilon=1e-6, asymmetric=True, shift=1.0
        )
        conditioner = ClassLabel(classes, net.embedded) if classes else Conditioner()
        denoiser = Denoiser(net, Discrete(linear_betas()), Epsilon())
        return Diffusion(denoiser, conditioner, objective=plain(drop=0.1 if classes else 0.0))

    training = Training(128, 200_000, 2e-4, warmup=640_000)
    sampling = Sampling(ddpm, trailing, steps=250)
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
        return Denoiser(net, Discrete(linear_betas()), Epsilon()), plain(drop=shape.drop)

    sampling, training = Sampling(ddpm, trailing, steps=100), own_training(batch, steps, lr, warmup)
    return unet_recipe(OwnPictures(data, shape, mirror), UNetSizes(width, depth, dropout), make, sampling, training)


def tiny(width: int = 32, dropout: float = 0.1, steps: int = 2500, batch: int = 64, lr: float = 2e-3) -> Recipe:
    """Scikit-learn's real handwritten digits: minutes on two CPU cores."""

    def system() -> Diffusion:
        net = UNet(1, 1, width, (1, 2, 2), 1, (1, 2), dropout=dropout, groups=8, cos_first=False, shift=1.0)
        return Diffusion(Denoiser(net, Discrete(linear_betas()), Epsilon()), objective=plain())

    training = Training(batch, steps, lr, steps * batch // 50, linear, betas=(0.9, 0.99), ema={"ema": Power(0.055)})
    return image_recipe(system, (1, 8, 8), real_digits, Sampling(ddpm, trailing, steps=250), training)


def plain(drop: float = 0.0, bound: float = 0.0) -> Objective:
    """L_simple, and ``bound`` times the variational bound: T / 1000 in 2102.09672."""
    return Objective(indices, epsilon, drop=drop, bound=bound)
