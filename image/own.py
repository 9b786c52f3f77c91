"""What the presets ``own`` share: models of a person's own pictures, of any size, whose network is fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from core.autoencoder import Plan
from core.condition import ClassLabel, Conditioner
from core.data.dataset import DataError, Dataset
from core.media.picture import Size
from core.nn import text_unet_plan as text_plan
from core.nn.folded import Folded
from core.nn.text_unet import TextUNet
from core.nn.unet import UNet
from core.prompts import Captions, Classes, Conditions, Unconditional
from core.recipe import Initialize, Recipe, Sampling, Training, linear
from core.sizes import Before, Law, Sizes
from core.systems.diffusion import Diffusion
from core.train.ema import Power
from core.train.precision import Precision
from image.augment import WithMirrored
from image.data import open_parts
from image.evaluation import evaluator
from image.latent import OWN_AUTOENCODER
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


def unet(shape: Shape, width: int, depth: int, dropout: float) -> Folded:
    """A U-Net for pictures of a shape: ``width`` channels on its finest grid, twice as many below."""
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


def own_recipe(
    system: Callable[[], Diffusion],
    data: str,
    mirror: bool,
    shape: Shape,
    sampling: Sampling,
    training: Training,
    sizes: Sizes,
) -> Recipe:
    """A recipe on pictures of one's own, by class where they have classes."""

    parts = own_pictures(data, shape.sides, shape.channels, mirror)
    prompts = Classes.of(shape.classes) if shape.classes else Unconditional()
    return Recipe(
        system,
        (shape.channels, *shape.sides),
        sampling,
        training,
        parts,
        MODALITY,
        prompts,
        evaluate=evaluator(parts),
        sizes=sizes,
    )


def own_pictures(data: str, size: Size, channels: int, mirror: bool) -> Callable[[], tuple[Dataset, Dataset]]:
    """The training and the held-out part of pictures, when called; with ``mirror`` every training picture twice."""

    @cache
    def parts() -> tuple[Dataset, Dataset]:
        found = open_parts(Path(data), size, channels)
        return WithMirrored(found.train) if mirror else found.train, found.held_out

    return parts


def divided_size(size: Sequence[int], factor: int) -> Size:
    """Height and width, less what does not divide by an autoencoder's factor. Raises ValueError for too small ones."""
    height, width = (side // factor * factor for side in Shape(tuple(size), 1, ()).sides)
    if min(height, width) < factor:
        raise ValueError(f"pictures of {tuple(size)} are too small for latents, a side of {factor} to one: use edm")
    return (height, width)


def own_plan(channels: int, size: Sequence[int], fold: int, width: int, latent: int) -> Plan:
    """An autoencoder that makes each side a quarter as long, or an eighth where they are longer than 96."""
    factor = 4 if max(size, default=0) <= 96 else 8
    fold = fold or factor // 2
    widths = [width]
    while fold * 2 ** (len(widths) - 1) < factor:
        widths.append(2 * width)
    return Plan(channels, latent, tuple(widths), 1, groups=8, middle_attention=False, fold=fold)


def text_unet(channels: int, size: Size, width: int, depth: int, text_width: int, dropout: float) -> Folded:
    """A U-Net for latents (C, H, W) that reads text on all grids but its finest, if that is large."""
    grid, levels = max(size), 1
    while grid > 4 and levels < 4:
        grid, levels = -(-grid // 2), levels + 1
    depths = [0 if max(size) >> level > 8 else 1 for level in range(levels)]
    widths = tuple(width * (level + 1) for level in range(levels))
    head = 32 if width % 32 == 0 else 16 if width % 16 == 0 else 8
    plan = text_plan.Plan(
        channels, channels, widths, tuple(depths), text_width, blocks=depth, head_width=head, groups=8, dropout=dropout
    )
    return Folded(TextUNet(plan), 1, 2 ** (levels - 1))


def own_captioned(
    system: Callable[[], Diffusion],
    shape: tuple[int, ...],
    sampling: Sampling,
    training: Training,
    data: str,
    size: Size,
    channels: int,
    mirror: bool,
    start: Initialize,
    sizes: Sizes,
) -> Recipe:
    """A recipe on captioned pictures of one's own, asked for the captions that are held out."""
    pictures = own_pictures(data, size, channels, mirror)

    @cache
    def parts() -> tuple[Dataset, Dataset]:
        train, held_out = pictures()
        if "caption" not in train.get([0]):
            raise DataError(f"{data} has no captions: add a table such as captions.csv, or train edm, which needs none")
        return train, held_out

    def validation(seed: int, samples: Sequence[int]) -> Conditions:
        held_out = parts()[1]
        captions: list[str] = held_out.get([number % len(held_out) for number in samples])["caption"]
        return {"caption": captions}

    return Recipe(
        system,
        shape,
        sampling,
        training,
        parts,
        MODALITY,
        Captions(validation),
        evaluate=evaluator(parts),
        initialize=start,
        sizes=sizes,
    )


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


LAW = Law(0.3, 0.3, 0.66)  # measured, see docs/own_data.md
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
AUTOENCODER_SIZES = Sizes(
    [{"width": width} for width in (16, 24, 32, 48, 64, 96, 128)], LAW, rate_from(32, 2e-3), dropout
)
AUTOENCODER_FIRST = Before(
    "autoencoder",
    OWN_AUTOENCODER,
    "autoencoder",
    0.35,
    ("data", "size", "channels", "mirror", "fold", "latent"),
    {"latent_width": "width"},
    3_000,
)
TEXT_UNET_SIZES = Sizes(
    [{"width": width, "depth": 1} for width in (16, 24, 32, 48, 64, 96)]
    + [{"width": width, "depth": 2} for width in (96, 128, 192, 256)],
    LAW,
    rate_from(32, 2e-3),
    dropout,
    AUTOENCODER_FIRST,
)
MMDIT_SIZES = Sizes(
    [{"heads": heads, "depth": depth} for heads, depth in ((2, 4), (3, 5), (4, 6), (6, 8), (8, 10), (12, 12))],
    LAW,
    rate_from(4, 1e-3, "heads"),
    dropout,
    AUTOENCODER_FIRST,
)
FLUX_SIZES = Sizes(
    [
        {"heads": heads, "doubles": doubles, "singles": singles}
        for heads, doubles, singles in ((2, 1, 3), (3, 2, 3), (4, 2, 4), (6, 3, 5), (8, 4, 6), (12, 4, 8))
    ],
    LAW,
    rate_from(4, 1e-3, "heads"),
    dropout,
    AUTOENCODER_FIRST,
)
