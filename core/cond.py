"""Cond: all inputs of a network besides the noisy data and the time.

The slots say *where* a condition enters a network; the conditioners of ``core.condition`` know *what* it is.
A domain may subclass ``Cond`` with slots of its own: the three operations below work on any field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cond:
    """The condition of a network; every slot is batched over its first dimension, and None where unused."""

    vector: Tensor | None = None  # (B, D)         class, pooled text, size and crop, frame rate, camera
    tokens: Tensor | None = None  # (B, L, D)      text or image tokens, for cross or joint attention
    mask: Tensor | None = None  # (B, L)           which tokens are real
    concat: Tensor | None = None  # (B, C, *grid)  depth map, masked image, first frame, low resolution
    valid: Tensor | None = None  # (B, N)          which positions of x exist
    guidance: Tensor | None = None  # (B,)         the guidance that a distilled network imitates
    label: Tensor | None = None  # (B,)            whole numbers: a class, for a network that embeds it itself
    number: Tensor | None = None  # (B, K)         levels, scores, ages, for a network that embeds them itself

    @classmethod
    def cat(cls, conds: Sequence[Self]) -> Self:
        """Stack conditions along the batch; a slot must be filled in all of them or in none."""
        first = conds[0]
        slots: dict[str, Tensor | None] = {}
        for field in dataclasses.fields(first):
            values = [getattr(cond, field.name) for cond in conds]
            filled = [value for value in values if value is not None]
            if filled and len(filled) != len(values):
                raise ValueError(
                    f"condition slot '{field.name}' is filled in some conditions of the batch but not in all"
                )
            slots[field.name] = torch.cat(filled) if filled else None
        return dataclasses.replace(first, **slots)

    def where(self, keep: Tensor, null: Self) -> Self:
        """Keep sample i's condition where ``keep[i]`` is true and take ``null``'s elsewhere (keep: (B,) bool)."""
        slots: dict[str, Tensor | None] = {}
        for field in dataclasses.fields(self):
            mine, other = getattr(self, field.name), getattr(null, field.name)
            if mine is None or other is None:
                slots[field.name] = mine
            else:
                slots[field.name] = torch.where(keep.view(-1, *[1] * (mine.ndim - 1)), mine, other)
        return dataclasses.replace(self, **slots)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move every slot to a device; ``dtype`` converts the floating-point slots only."""
        slots: dict[str, Tensor | None] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                value = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            slots[field.name] = value
        return dataclasses.replace(self, **slots)
