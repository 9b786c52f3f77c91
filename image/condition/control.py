"""The condition of a model with a ControlNet: a control picture in addition to the model's own condition."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from core.cond import Cond
from core.condition import Batch, Conditioner
from core.nn.controlnet import ControlCond


class ControlPicture(Conditioner):
    """``batch["control"]`` (B, C or 1, *grid), bytes or numbers in [0, 1], -> ``cond.control`` (B, C, *grid).

    The null asks for nothing and has no picture, nor has what a batch without one asks for, such as a negative prompt.
    What is dropped and what guidance moves away from therefore keeps the picture of what is asked for.
    """

    def __init__(self, inner: Conditioner, channels: int = 3) -> None:
        """inner: what makes the other conditions; channels: of the picture, where one grey channel stands for all."""
        super().__init__()
        self.inner, self.channels = inner, channels

    def forward(self, batch: Batch) -> Cond:
        picture = torch.as_tensor(batch["control"]) if "control" in batch else None
        return self._joined(self.inner(batch), picture)

    def null(self, count: int) -> Cond:
        return self._joined(self.inner.null(count), None)

    def _joined(self, cond: Cond, picture: Tensor | None) -> ControlCond:
        if picture is not None:
            picture = picture.float() / 255 if picture.dtype == torch.uint8 else picture
            picture = picture.expand(-1, self.channels, *picture.shape[2:]) if picture.shape[1] == 1 else picture
        slots = {field.name: getattr(cond, field.name) for field in dataclasses.fields(cond)}
        return ControlCond(**slots, control=picture)
