"""The edges of pictures, for a ControlNet to follow: how steeply brightness changes, by Sobel's two filters.

    e = sqrt(gx^2 + gy^2) / 4     of the channel in which it is largest, at most 1; brightness in [0, 1]

A straight step from black to white is 1 on both its sides, and any other as much as its contrast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.dataset import Batch, DataError, Dataset, HasAugmentation, varies
from core.data.order import example_order
from core.media.picture import decode, resize_and_crop
from core.random import TrainingRNG


def edges(x: Tensor) -> Tensor:
    """Pictures (B, C, H, W) in [-1, 1] -> their edges (B, 1, H, W) in [0, 1]."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(x)
    filters = torch.stack([across, across.T])[:, None]  # (2, 1, 3, 3)
    grey = F.pad((x.flatten(0, 1)[:, None] + 1) / 2, (1, 1, 1, 1), mode="replicate")  # (B C, 1, H + 2, W + 2)
    steep = F.conv2d(grey, filters).norm(dim=1) / 4  # (B C, H, W)
    return steep.unflatten(0, x.shape[:2]).amax(1, keepdim=True).clamp(max=1)


def as_bytes(picture: Tensor) -> Tensor:
    """A control picture in [0, 1] as files hold it and as it lies in memory."""
    return (picture * 255).round().to(torch.uint8)


@dataclass(frozen=True)
class WithEdges:
    """Pictures with their own edges under "control", (B, 1, H, W) bytes, and everything else as it was."""

    data: Dataset

    def __len__(self) -> int:
        return len(self.data)

    def example_order(self, seed: int, positions: Sequence[int]) -> list[int]:
        """The order of the data below."""
        return example_order(self.data, seed, positions)

    def get(self, indices: Sequence[int]) -> Batch:
        """The examples and their edges."""
        return _with_edges(self.data.get(indices))

    @property
    def random(self) -> bool:
        """Whether the data below are."""
        return varies(self.data)

    def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> Batch:
        """The same, with the randomness of the data below, if they have any."""
        return _with_edges(
            self.data.get_augmented(indices, rng) if isinstance(self.data, HasAugmentation) else self.data.get(indices)
        )


def _with_edges(batch: Batch) -> Batch:
    return {**batch, "control": as_bytes(edges(batch["x"]))}


def read_control(path: Path, ready: bool, height: int, width: int) -> Mapping[str, Tensor]:
    """A file's picture at this size as a control picture (1, 3, H, W), or else its edges (1, 1, H, W), in bytes.

    ready: whether it is the control picture itself. Raises DataError for what cannot be read.
    """
    try:
        with path.open("rb") as file:
            whole = decode(file, str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give a picture for the ControlNet to follow") from error
    pixels = np.array(resize_and_crop(whole, (height, width))[0])
    found = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return {"control": found if ready else as_bytes(edges(found / 127.5 - 1))}
