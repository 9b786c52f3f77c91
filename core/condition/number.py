"""Numbers as conditions: levels, scores, ages, difficulty."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.cond import Cond
from core.condition import Batch, Conditioner


def checked_numbers(batch: Batch, columns: int) -> Tensor:
    """The numbers (B, K) of a batch. Raises ValueError when there are none, or not so many of each sample."""
    if "number" not in batch:
        raise ValueError(f"this model is conditioned on numbers: give {columns} for each sample")
    number = torch.as_tensor(batch["number"])
    number = number if number.is_floating_point() else number.float()
    if number.ndim != 2 or number.shape[1] != columns:
        raise ValueError(f"numbers must be (samples, {columns}), not {tuple(number.shape)}")
    return number


class Numbers(Conditioner):
    """The numbers themselves, for a network that embeds them: ``batch["number"]`` (B, K) -> ``cond.number`` (B, K)."""

    def __init__(self, null: Sequence[float]) -> None:
        """null: the K numbers that the network was trained to take for nothing asked for."""
        super().__init__()
        self.empty = nn.Buffer(torch.tensor([*null], dtype=torch.float32))

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError when there are no numbers, or not K of each sample."""
        return Cond(number=checked_numbers(batch, len(self.empty)).to(self.empty))

    def null(self, count: int) -> Cond:
        return Cond(number=self.empty.expand(count, -1))


class NumberEmbedding(Conditioner):
    """Numbers as a vector, and a learned one for none: ``batch["number"]`` (B, K) -> ``cond.vector`` (B, width).

    A number u, scaled so that its usual range is [0, 1], becomes u and its sines and cosines of ``bands`` octaves from
    half a wave over the range (2006.10739); one linear layer reads those of all numbers.
    """

    def __init__(self, ranges: Sequence[tuple[float, float]], width: int, bands: int = 4) -> None:
        """ranges: the usual lowest and highest value of each number. Raises ValueError where a range is empty."""
        super().__init__()
        for low, high in ranges:
            if not low < high:
                raise ValueError(f"numbers from {low:g} to {high:g}: the lowest lies below the highest")
        self.low = nn.Buffer(torch.tensor([low for low, _ in ranges], dtype=torch.float32))
        self.span = nn.Buffer(torch.tensor([high - low for low, high in ranges], dtype=torch.float32))
        self.bands = bands
        self.read = nn.Linear(len(ranges) * (1 + 2 * bands), width)
        self.none = nn.Parameter(torch.zeros(width))

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError when there are no numbers, or not so many of each sample as there are ranges."""
        number = checked_numbers(batch, len(self.low)).to(self.low)
        return Cond(vector=self.read(self.features((number - self.low) / self.span)))

    def features(self, scaled: Tensor) -> Tensor:
        """(B, K) -> (B, K (1 + 2 bands))."""
        angles = scaled[..., None] * (math.pi * 2.0 ** torch.arange(self.bands, device=scaled.device))  # (B, K, bands)
        return torch.cat([scaled[..., None], angles.sin(), angles.cos()], dim=-1).flatten(1)

    def null(self, count: int) -> Cond:
        return Cond(vector=self.none.expand(count, -1))
