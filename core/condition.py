"""Conditioners: from a batch (labels, captions) to the ``Cond`` of a network.

A conditioner also knows its null, the condition of "nothing asked for", which training puts in place of some conditions
and classifier-free guidance moves away from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.cond import Cond

Batch = Mapping[str, Any]  # "x" (B, ...) and what conditioners look for: "label" (B,), "caption" list of str


class Conditioner(nn.Module):
    """The condition of an unconditional model, and the base of all others."""

    def forward(self, batch: Batch) -> Cond:
        """What the batch asks for."""
        return Cond()

    def null(self, count: int) -> Cond:
        """Nothing asked for, ``count`` times."""
        return Cond()


def checked(batch: Batch, classes: int) -> Tensor:
    """The labels (B,) of a batch. Raises ValueError when there are none, or one is not a class."""
    if "label" not in batch:
        raise ValueError("this model is class-conditional: give a label for each sample")
    label = torch.as_tensor(batch["label"])
    if label.is_floating_point() or label.ndim != 1:
        raise ValueError("labels must be one whole number for each sample")
    if label.device.type == "cpu" and len(label) and not 0 <= int(label.min()) <= int(label.max()) <= classes:
        raise ValueError(f"labels must lie in 0 to {classes - 1}; {classes} asks for no class")
    return label


class ClassLabel(Conditioner):
    """A learned vector for each class, and one more for none: ``batch["label"]`` (B,) -> ``cond.vector`` (B, width)."""

    def __init__(self, classes: int, width: int, deviation: float = 0.02) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.table.weight, std=deviation)

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError when there are no labels, or one is not a class; the label ``classes`` stands for none."""
        return Cond(vector=self.table(checked(batch, self.classes).to(self.table.weight.device)))

    def null(self, count: int) -> Cond:
        rows: Tensor = self.table.weight[self.classes]
        return Cond(vector=rows.expand(count, -1))


class Labels(Conditioner):
    """The labels themselves, for a network that embeds them: ``batch["label"]`` (B,) -> ``cond.label`` (B,)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError as ``ClassLabel`` does."""
        return Cond(label=checked(batch, self.classes))

    def null(self, count: int) -> Cond:
        return Cond(label=torch.full((count,), self.classes))


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


class Valid(Conditioner):
    """Which positions of x exist, as the batch says: ``batch["valid"]`` (B, N) -> ``cond.valid``; it has no null."""

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError when the batch does not say it."""
        if "valid" not in batch:
            raise ValueError("this model has samples of different sizes: give 'valid', which positions exist")
        return Cond(valid=torch.as_tensor(batch["valid"], dtype=torch.bool))


class CombinedConditioner(Conditioner):
    """Several conditioners as one.

    Vectors and numbers are joined along their features and concat maps along their channels; tokens follow each other,
    with their masks. Any other slot may be filled by one conditioner only.
    """

    def __init__(self, parts: Sequence[Conditioner]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, batch: Batch) -> Cond:
        return join([part(batch) for part in self.parts])

    def null(self, count: int) -> Cond:
        parts = [part for part in self.parts if isinstance(part, Conditioner)]
        return join([part.null(count) for part in parts])


def join(conds: Sequence[Cond]) -> Cond:
    """One condition for the same samples from several; raises ValueError where a slot cannot hold both."""
    joined: dict[str, Tensor] = {}
    conds = _with_masks(conds)
    for cond in conds:
        for field in dataclasses.fields(cond):
            value = getattr(cond, field.name)
            if value is None:
                continue
            if field.name not in joined:
                joined[field.name] = value
            elif field.name in _AXIS:
                joined[field.name] = torch.cat([joined[field.name], value], dim=_AXIS[field.name])
            else:
                raise ValueError(f"two conditioners fill the slot '{field.name}', which can hold only one")
    widest = max((type(cond) for cond in conds), key=lambda kind: len(dataclasses.fields(kind)), default=Cond)
    return widest(**joined)


_AXIS = {"vector": 1, "number": 1, "tokens": 1, "mask": 1, "concat": 1}


def _with_masks(conds: Sequence[Cond]) -> list[Cond]:
    """Tokens without a mask are all real; joined with tokens that have one, they need one too."""
    if all(cond.mask is None for cond in conds):
        return list(conds)
    return [
        dataclasses.replace(cond, mask=torch.ones(cond.tokens.shape[:2], dtype=torch.bool, device=cond.tokens.device))
        if cond.tokens is not None and cond.mask is None
        else cond
        for cond in conds
    ]
