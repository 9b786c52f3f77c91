"""Captioned digits: pictures of one to three real handwritten digits, with captions that are true.

A scene is drawn first: digits, colours, sizes, places and a background; picture and caption both follow from it, so
all that a caption states can be measured. Scene i is a function of i alone. A caption whose hash ends in 0 is held out:
it never occurs in training, and held-out pictures use digits that no training picture shows.

    "a red 7 left of a small blue 2 on white"
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from image.data import ImageArray, digits

SIDE = 32  # pixels
COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.05, 0.65, 0.15),
    "blue": (0.15, 0.25, 0.95),
    "yellow": (0.98, 0.85, 0.05),
    "purple": (0.65, 0.15, 0.80),
    "cyan": (0.05, 0.80, 0.85),
}
BACKGROUNDS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0), "grey": (0.45, 0.45, 0.45)}
SIZES = {"small": (12, 9), "": (14, 10), "large": (16, 12)}  # pixels, down and across
PLACES = {  # column and row, each -1, 0 or 1
    "in the middle": (0, 0),
    "on the left": (-1, 0),
    "on the right": (1, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
    "in the top left corner": (-1, -1),
    "in the top right corner": (1, -1),
    "in the bottom left corner": (-1, 1),
    "in the bottom right corner": (1, 1),
}
RELATIONS = {"left of": (0, False), "right of": (0, True), "above": (1, False), "below": (1, True)}  # axis, reversed
INK = slice(1, 7)  # the columns of an 8 x 8 digit that hold its ink


@dataclass(frozen=True)
class Item:
    """One digit of a scene."""

    digit: int
    colour: str
    size: str
    glyph: int  # which handwritten example of the digit, as a large random number
    centre: tuple[float, float] = (SIDE / 2, SIDE / 2)  # x, y in pixels

    def words(self) -> str:
        """ "a small red 7"."""
        return " ".join(word for word in ("a", self.size, self.colour, str(self.digit)) if word)


@dataclass(frozen=True)
class Scene:
    """What a picture shows. ``place`` is of a single digit; ``axis`` orders several, the first named item first."""

    items: tuple[Item, ...]
    background: str
    caption: str
    place: tuple[int, int] | None = None
    axis: int = 0
    reversed: bool = False

    @property
    def held_out(self) -> bool:
        """Whether this caption is kept from training."""
        return zlib.crc32(self.caption.encode()) % 10 == 0


def scene(seed: int, index: int, held_out: bool) -> Scene:
    """Scene ``index`` of the training or of the held-out part."""
    generator = np.random.Generator(np.random.Philox(key=[seed, index]))
    while True:
        found = _compose(generator)
        if found.held_out == held_out:
            return found


def _compose(generator: np.random.Generator) -> Scene:
    count = int(generator.choice([1, 2, 3], p=[0.45, 0.4, 0.15]))
    items = [_item(generator, count) for _ in range(count)]
    background = str(generator.choice(list(BACKGROUNDS)))
    if count == 1:
        words = str(generator.choice(list(PLACES)))
        items = [_at(items[0], _anywhere(generator, items[0], PLACES[words]))]
        return Scene(tuple(items), background, f"{items[0].words()} {words} on {background}", PLACES[words])
    if count == 2:
        words = str(generator.choice(list(RELATIONS)))
        axis, backwards = RELATIONS[words]
        caption = f"{items[0].words()} {words} {items[1].words()} on {background}"
    else:
        axis, backwards = 0, False
        first, second, third = (item.words() for item in items)
        caption = f"{first}, {second} and {third} from left to right on {background}"
    return Scene(_line(generator, items, axis, backwards), background, caption, None, axis, backwards)


def _item(generator: np.random.Generator, count: int) -> Item:
    sizes = list(SIZES) if count < 3 else ["small"]  # three others would not fit
    return Item(
        int(generator.integers(10)),
        str(generator.choice(list(COLOURS))),
        str(generator.choice(sizes)),
        int(generator.integers(2**31)),
    )


def _at(item: Item, centre: tuple[float, float]) -> Item:
    return Item(item.digit, item.colour, item.size, item.glyph, centre)


def _anywhere(generator: np.random.Generator, item: Item, place: tuple[int, int]) -> tuple[float, float]:
    """A centre in the asked third of each axis, all of the digit inside the picture."""
    down, across = SIZES[item.size]
    x, y = ({-1: size / 2, 0: SIDE / 2 - 2, 1: SIDE - size / 2 - 3}[c] for c, size in zip(place, (across, down)))
    return (x + generator.uniform(0, 3), y + generator.uniform(0, 3))


def _line(generator: np.random.Generator, items: Sequence[Item], axis: int, backwards: bool) -> tuple[Item, ...]:
    """Items one after the other along an axis, with random gaps and little sideways offsets, in the order named."""
    order = list(reversed(items)) if backwards else list(items)
    lengths = [SIZES[item.size][1 - axis] for item in order]
    widths = [SIZES[item.size][axis] for item in order]
    cuts = np.sort(generator.uniform(0, SIDE - sum(lengths), len(order)))
    level = generator.uniform(max(widths) / 2, SIDE - max(widths) / 2)
    placed, passed = [], 0
    for item, length, width, cut in zip(order, lengths, widths, cuts, strict=True):
        along = float(cut) + passed + length / 2
        across = float(np.clip(level + generator.uniform(-2, 2), width / 2, SIDE - width / 2))
        placed.append(_at(item, (along, across) if axis == 0 else (across, along)))
        passed += length
    return tuple(reversed(placed)) if backwards else tuple(placed)


@dataclass(frozen=True)
class Glyphs:
    """Handwritten digits in every size: ``of(item)`` is its ink (down, across) in [0, 1]."""

    source: ImageArray

    @cached_property
    def by_digit(self) -> list[list[int]]:
        """The rows of each digit."""
        labels = self.source.labels
        assert labels is not None
        return [(labels == digit).nonzero().flatten().tolist() for digit in range(10)]

    @cached_property
    def inks(self) -> dict[str, Tensor]:
        """(N, down, across) by name of the size."""
        ink = (self.source.images[..., INK] + 1) / 2  # (N, 1, 8, 6)
        return {
            name: F.interpolate(ink, size, mode="bicubic", align_corners=False).clamp(0, 1)[:, 0]
            for name, size in SIZES.items()
        }

    def of(self, item: Item) -> Tensor:
        """The ink of an item."""
        rows = self.by_digit[item.digit]
        return self.inks[item.size][rows[item.glyph % len(rows)]]


def render(seen: Scene, glyphs: Glyphs) -> Tensor:
    """The picture of a scene: (3, SIDE, SIDE) in [-1, 1]."""
    image = torch.tensor(BACKGROUNDS[seen.background]).view(3, 1, 1).repeat(1, SIDE, SIDE)
    for item in seen.items:
        ink, (down, across) = glyphs.of(item), SIZES[item.size]
        left, top = (min(max(round(c - size / 2), 0), SIDE - size) for c, size in zip(item.centre, (across, down)))
        window = image[:, top : top + down, left : left + across]
        window.lerp_(torch.tensor(COLOURS[item.colour]).view(3, 1, 1).expand_as(window), ink.expand_as(window))
    return image * 2 - 1


@dataclass(frozen=True)
class CaptionedDigits:
    """``count`` scenes as a data set: "x" (B, 3, 32, 32) in [-1, 1], "caption" list of str, "scene" list of Scene."""

    count: int
    glyphs: Glyphs
    held_out: bool = False
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every picture."""
        return (3, SIDE, SIDE)

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        """Pictures, captions and scenes at some indices."""
        scenes = [scene(self.seed, index, self.held_out) for index in indices]
        images = torch.stack([render(seen, self.glyphs) for seen in scenes])
        return {"x": images, "caption": [seen.caption for seen in scenes], "scene": scenes}


def captioned_digits(count: int = 50_000, held_out: int = 2_000) -> tuple[CaptionedDigits, CaptionedDigits]:
    """The training and the held-out part; they share neither a caption nor a handwritten digit."""
    train, test = digits()
    return CaptionedDigits(count, Glyphs(train)), CaptionedDigits(held_out, Glyphs(test), held_out=True)
