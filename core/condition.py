"""Conditioners: from a batch (labels, captions) to the ``Cond`` of a network.

A conditioner also knows its null, the condition of "nothing asked for", which training puts in place of some conditions
and classifier-free guidance moves away from.
"""

from __future__ import annotations

import dataclasses
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
    """The labels themselves, for a network that embeds them: ``batch["label"]`` (B,) -> ``cond.vector`` (B,)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError as ``ClassLabel`` does."""
        return Cond(vector=checked(batch, self.classes))

    def null(self, count: int) -> Cond:
        return Cond(vector=torch.full((count,), self.classes))


class Valid(Conditioner):
    """Which positions of x exist, as the batch says: ``batch["valid"]`` (B, N) -> ``cond.valid``; it has no null."""

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError when the batch does not say it."""
        if "valid" not in batch:
            raise ValueError("this model has samples of different sizes: give 'valid', which positions exist")
        return Cond(valid=torch.as_tensor(batch["valid"], dtype=torch.bool))


class CombinedConditioner(Conditioner):
    """Several conditioners as one.

    Vectors are joined along their features and concat maps along their channels; tokens follow each other, with their
    masks. Any other slot may be filled by one conditioner only.
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


_AXIS = {"vector": 1, "tokens": 1, "mask": 1, "concat": 1}


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
