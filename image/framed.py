"""Captioned digits as pictures come from elsewhere: some small, some of another shape and cut at an edge.

Each scene is the left, or upper, part of an original that is square, tall or wide and has some resolution. The original
is scaled to cover 32 x 32 pixels and cropped there, and the batch holds both, as in ``image.source``. So a
crop at (0, 0) shows the whole scene, and a crop at (0, 5) shows it moved to the left by 5 pixels and cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.media.picture import Size
from core.random import Stream, uniform
from image.captions import BACKGROUNDS, SIDE, CaptionedDigits, captioned_digits

RESOLUTIONS = (16, 24, 32)  # pixels of the original for the 32 that a scene has
ROOM = 8  # pixels beyond a scene in a tall or wide picture, at full resolution


@dataclass(frozen=True)
class FramedDigits:
    """``CaptionedDigits`` that were framed; picture i is a function of i. A batch also has "size", "crop", "target"."""

    digits: CaptionedDigits

    def __len__(self) -> int:
        return len(self.digits)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every picture."""
        return self.digits.shape

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        """What ``CaptionedDigits.get`` gives, framed, and "size", "crop", "target" (B, 2) as height, width."""
        batch = self.digits.get(indices)
        chances = uniform(self.digits.seed, indices, Stream.AUGMENT, 0, (3,)).tolist()
        pictures, sizes, crops = [], [], []
        for scene, image, (resolution, shape, edge) in zip(batch["scene"], batch["x"], chances, strict=True):
            room = ((0, 0), (ROOM, 0), (0, ROOM))[int(shape * 3)]
            top, left = (int(edge * (more + 1)) for more in room)
            size, whole = original(image, BACKGROUNDS[scene.background], room, RESOLUTIONS[int(resolution * 3)])
            pictures.append(whole[:, top : top + SIDE, left : left + SIDE])
            sizes.append(size)
            crops.append((top, left))
        numbers = {"size": sizes, "crop": crops, "target": [(SIDE, SIDE)] * len(pictures)}
        micro_conditions = {name: torch.tensor(value, dtype=torch.float32) for name, value in numbers.items()}
        return {**batch, "x": torch.stack(pictures), **micro_conditions}


def original(image: Tensor, background: tuple[float, float, float], room: Size, resolution: int) -> tuple[Size, Tensor]:
    """The size of a picture that holds a scene (3, 32, 32) and some room next to it, and the picture scaled back."""
    whole = (torch.tensor(background) * 2 - 1).view(3, 1, 1).repeat(1, SIDE + room[0], SIDE + room[1])
    whole[:, :SIDE, :SIDE] = image
    height, width = (length * resolution // SIDE for length in whole.shape[1:])
    small = F.interpolate(whole[None], (height, width), mode="bilinear", antialias=True)
    return (height, width), F.interpolate(small, whole.shape[1:], mode="bilinear")[0]


def framed_digits(count: int) -> tuple[FramedDigits, FramedDigits]:
    """The training and the held-out part."""
    train, held_out = captioned_digits(count)
    return FramedDigits(train), FramedDigits(held_out)
