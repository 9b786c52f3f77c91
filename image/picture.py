"""The object of the modality: a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """Pixels (C, H, W) in [-1, 1], grey or in colour, and the caption or class that it was made for."""

    pixels: Tensor
    caption: str = ""
