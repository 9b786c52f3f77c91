"""How pictures become features: a small convolutional network of any size of picture, and random changes of pictures.

Large pictures are seen at 64 pixels on the longer side. What others trained takes the place of all this where it is at
hand (``image.features``, ``image.clip_score``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.evaluation.backbone import Backbone

SEEN = 64  # pixels on the longer side, at most
MAP = 16  # pixels on the longer side of the first map, at most
FEATURES = 64


def view(batch: Mapping[str, Any]) -> Tensor:
    """Pictures (B, C, H, W) at no more than SEEN pixels on the longer side, within [-1, 1] unless they are latents."""
    pixels: Tensor = batch["x"].float()
    pixels = pixels.clamp(-1, 1) if pixels.shape[1] in (1, 3) else pixels
    height, width = pixels.shape[-2:]
    if max(height, width) <= SEEN:
        return pixels
    scale = SEEN / max(height, width)
    size = [max(1, round(side * scale)) for side in (height, width)]
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)


class Network(nn.Module):
    """Pictures (B, C, H, W) -> features (B, FEATURES): a stem that makes a map of at most MAP, and two halvings."""

    def __init__(self, channels: int, sides: tuple[int, int], width: int = 24) -> None:
        super().__init__()
        stride = (-(-sides[0] // MAP), -(-sides[1] // MAP))
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, (stride[0] + 2, stride[1] + 2), stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *_halving(width, 2 * width),
            *_halving(2 * width, 4 * width),
            _Residual(4 * width),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * width, FEATURES),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.body(pictures.contiguous(memory_format=torch.channels_last))
        return found


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.body(x)
        return found


def _halving(width: int, wider: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width, wider, 3, 2, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()


def network(example: Tensor) -> nn.Module:
    """An untrained network of pictures like this one (1, C, H, W)."""
    made = Network(example.shape[1], (example.shape[2], example.shape[3]))
    return made.to(memory_format=torch.channels_last)


def details(pictures: Tensor) -> Tensor:
    """How much there is at the three finest scales, each half as fine as the one before: (B, 3 C) log-deviations."""
    bands = list[Tensor]()
    for _ in range(3):
        halves = [min(2, side) for side in pictures.shape[-2:]]
        coarse = F.avg_pool2d(pictures, halves, ceil_mode=True, count_include_pad=False)
        bands.append((pictures - F.interpolate(coarse, pictures.shape[-2:])).flatten(2).std(2, correction=0))
        pictures = coarse
    return (torch.cat(bands, 1) + 1e-2).log()


def shift(pictures: Tensor) -> Tensor:
    """Pictures moved by up to a twelfth of their sides, with a little noise."""
    return _affine(pictures, move=1 / 6, scale=0.05) + 0.03 * torch.randn_like(pictures)


def distort(pictures: Tensor) -> Tensor:
    """Pictures cropped, mirrored, and of other brightness, contrast and colour, at random (2002.05709)."""
    count, channels = pictures.shape[:2]
    moved = _affine(pictures, move=0.4, scale=0.3, mirror=True)
    contrast = 1 + 0.4 * (2 * torch.rand(count, 1, 1, 1) - 1)
    colour = 0.3 * (2 * torch.rand(count, channels, 1, 1) - 1)
    return moved * contrast + colour + 0.05 * torch.randn_like(pictures)


def _affine(pictures: Tensor, move: float, scale: float, mirror: bool = False) -> Tensor:
    """Each picture enlarged by its own factor and moved, in units of half of its sides."""
    count = len(pictures)
    zoom = 1 + scale * (2 * torch.rand(count) - 1)
    turn = torch.where(torch.rand(count) < 0.5, -1.0, 1.0) if mirror else torch.ones(count)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * turn, zoom
    theta[:, :, 2] = move * (2 * torch.rand(count, 2) - 1)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


PICTURES = Backbone(view, network, shift, distort, FEATURES, "picture", details=details)
