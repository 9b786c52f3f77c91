"""What the presets ``own`` share: models of a person's own pictures, of any size, whose network is fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from core.condition import ClassLabel, Conditioner
from core.data.dataset import Dataset
from core.denoiser import Denoiser
from core.media.picture import Size
from core.nn.folded import Folded
from core.nn.unet import UNet
from core.objective import Objective
from core.prompts import Classes, Unconditional
from core.recipe import Recipe, Sampling, Training, linear
from core.sizes import Law, Sizes
from core.systems.diffusion import Diffusion
from core.train.ema import Power
from core.train.precision import Precision
from image.augment import WithMirrored
from image.data import open_parts
from image.evaluation import evaluator
from image.modality import MODALITY

GRID = 16  # the longest side of a network's own grid, unless another fold is asked for
PATIENCE = 0.25  # the share of a run for which the held-out loss may be above its lowest
COARSEST = 8  # a U-Net's grid is halved until no side is longer; attention is there


@dataclass(frozen=True)
class Shape:
    """What pictures are like, and into what squares a network folds them (0: as its grid needs)."""

    size: tuple[int, ...]  # height and width; one number is a square
    channels: int
    classes: tuple[str, ...]
    folded: int = 0

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        if len(self.size) not in (1, 2) or min(self.size) < 1:
            raise ValueError(f"a size of {self.size} is no picture's: give its height and width, or one for a square")
        return (self.size[0], self.size[-1])

    @property
    def fold(self) -> int:
        """The side of the squares of pixels that become channels: a power of two that leaves a grid within GRID."""
        if self.folded:
            return self.folded
        fold = 1
        while max(self.sides) > GRID * fold:
            fold *= 2
        return fold

    @property
    def levels(self) -> int:
        """The grids of a U-Net."""
        grid, levels = -(-max(self.sides) // self.fold), 1
        while grid > COARSEST and levels < 6:
            grid, levels = -(-grid // 2), levels + 1
        return levels

    @property
    def drop(self) -> float:
        """The share of the labels that training leaves out, so that guidance has something to move away from."""
        return 0.1 if self.classes else 0.0


class UNetSizes(NamedTuple):
    """What the arguments of a recipe say of its U-Net."""

    width: int
    depth: int
    dropout: float


def unet_for(shape: Shape, sizes: UNetSizes) -> Folded:
    """A U-Net for pictures of a shape: ``width`` channels on its finest grid, twice as many below."""
    width, depth, dropout = sizes
    inside = shape.channels * shape.fold**2
    net = UNet(
        inside,
        inside,
        width,
        (1, *[2] * (shape.levels - 1)),
        depth,
        (shape.levels - 1,),
        dropout=dropout,
        groups=8,
        head_width=32 if width % 32 == 0 else 16 if width % 16 == 0 else 8,
        scale_shift=True,
    )
    return Folded(net, shape.fold, 2 ** (shape.levels - 1))


@dataclass(frozen=True)
class OwnPictures:
    """Pictures of one's own, by class where they have classes; with ``mirror`` every training picture twice."""

    data: str
    shape: Shape
    mirror: bool

    def recipe(self, system: Callable[[], Diffusion], sampling: Sampling, training: Training, sizes: Sizes) -> Recipe:
        """A recipe of a system that diffuses the pixels."""
        shape = self.shape
        parts = own_pictures(self.data, shape.sides, shape.channels, self.mirror)
        return Recipe(
            system,
            (shape.channels, *shape.sides),
            sampling,
            training,
            parts,
            MODALITY,
            Classes.of(shape.classes) if shape.classes else Unconditional(),
            evaluate=evaluator(parts),
            sizes=sizes,
        )


def class_conditioner(shape: Shape, width: int) -> Conditioner:
    """A conditioner on classes where there are any; width: of the network's embedding."""
    return ClassLabel(len(shape.classes), width, deviation=1.0) if shape.classes else Conditioner()


def own_training(batch: int, steps: int, lr: float, warmup: int) -> Training:
    """A short training: a large rate that rises for ``warmup`` steps and falls to 0, an average over the end of it."""
    return Training(
        batch,
        steps,
        lr,
        warmup * batch,
        linear,
        (0.9, 0.99),
        precision=Precision.AUTO,
        threads=1,
        patience=PATIENCE,
        ema={"ema": Power(0.06)},
    )


def unet_recipe(
    pictures: OwnPictures,
    unet: UNetSizes,
    make: Callable[[Folded], tuple[Denoiser, Objective]],
    sampling: Sampling,
    training: Training,
) -> Recipe:
    """A recipe of a U-Net; make: its denoiser and objective, which takes ``pictures.shape.drop``."""

    def system() -> Diffusion:
        net = unet_for(pictures.shape, unet)
        denoiser, objective = make(net)
        return Diffusion(denoiser, class_conditioner(pictures.shape, net.embedded), objective=objective)

    return pictures.recipe(system, sampling, training, UNET_SIZES)


def own_pictures(data: str, size: Size, channels: int, mirror: bool) -> Callable[[], tuple[Dataset, Dataset]]:
    """The training and the held-out part of pictures, when called; with ``mirror`` every training picture twice."""

    @cache
    def parts() -> tuple[Dataset, Dataset]:
        found = open_parts(Path(data), size, channels)
        return WithMirrored(found.train) if mirror else found.train, found.held_out

    return parts


def dropout(epochs: float) -> float:
    """None where examples are seen a few times, and more of it the more they are repeated."""
    return 0.0 if epochs < 20 else 0.1 if epochs < 200 else 0.2


def rate_from(width: int, rate: float, name: str = "width") -> Callable[[Mapping[str, Any], int], float]:
    """The learning rate of a width, from that of another: as the inverse root, and less for batches below 64.

    name: of the argument that says how wide a network is.
    """

    def rate_of(arguments: Mapping[str, Any], batch: int) -> float:
        return float(f"{rate * (width / arguments[name]) ** 0.5 * min(1.0, batch / 64) ** 0.25:.2g}")

    return rate_of


LAW = Law(0.3, 0.3, 0.66)  # of U-Nets on 28 x 28 pictures, and taken for all families (docs/own_data.md)
UNET_SIZES = Sizes(
    [{"width": width, "depth": 1} for width in (16, 24, 32, 48, 64, 96)]
    + [{"width": width, "depth": 2} for width in (96, 128, 192, 256)],
    LAW,
    rate_from(32, 2e-3),
    dropout,
)
DIT_SIZES = Sizes(
    [{"width": width, "depth": depth} for width, depth in ((64, 4), (96, 5), (128, 6), (192, 8), (256, 10), (384, 12))],
    LAW,
    rate_from(128, 1e-3),
    dropout,
)
