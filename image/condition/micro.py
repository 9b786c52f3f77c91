"""Micro-conditioning: the original size, crop and target size of a picture as a condition (2307.01952, 2.2).

    vector = [the text's, s(height), s(width), s(top), s(left), s(target height), s(target width)]      s: sinusoids

Small and cropped pictures can then be learned from without being imitated: whoever asks for a large size and a crop at
(0, 0) asks for a sharp and whole picture. SDXL's refiner takes an aesthetic score in place of the target size.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from core.cond import Cond
from core.condition import Batch, Conditioner
from core.nn.embeddings import sinusoid

NUMBER_COUNT, SCORED_NUMBER_COUNT = 6, 5  # how many numbers there are


class MicroConditioning(Conditioner):
    """Another conditioner, with the picture's numbers behind its ``cond.vector``.

    A batch may hold "size", "crop" and "target" (B, 2), height or top first, or one for all (2,), and "score" (B,).
    """

    def __init__(self, text: Conditioner, size: tuple[int, int], width: int = 256, score: float | None = None) -> None:
        """size: of what a batch does not say; width: of each number's sinusoids; score: the usual, of a refiner."""
        super().__init__()
        self.text = text
        self.size = size
        self.width = width
        self.score = score

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError for numbers that are not as many as the samples."""
        return with_micro_conditions(self.text(batch), batch, self.size, self.width, self.score)

    def null(self, count: int) -> Cond:
        """No text, in a whole picture of the usual size."""
        return with_micro_conditions(self.text.null(count), {}, self.size, self.width, self.score)


def with_micro_conditions(
    text_cond: Cond, batch: Batch, size: tuple[int, int], width: int, score: float | None
) -> Cond:
    """``text_cond`` with the numbers of a batch behind its vector; what the batch leaves out is as usual."""
    assert text_cond.vector is not None
    count = len(text_cond.vector)
    numbers = [_pair(batch, "size", size, count), _pair(batch, "crop", (0, 0), count)]
    if score is None:
        numbers.append(_pair(batch, "target", size, count))
    else:
        numbers.append(torch.as_tensor(batch.get("score", score), dtype=torch.float32).expand(count)[:, None])
    numbers_of = torch.cat(
        [each.to(text_cond.vector.device) for each in numbers], dim=1
    )  # (B, 6), the refiner's (B, 5)
    waves = sinusoid(numbers_of.flatten(), width).view(count, -1)
    return dataclasses.replace(text_cond, vector=torch.cat([text_cond.vector, waves.to(text_cond.vector.dtype)], dim=1))


def _pair(batch: Batch, name: str, usual: tuple[int, int], count: int) -> Tensor:
    found = torch.as_tensor(batch.get(name, usual), dtype=torch.float32)
    if found.shape not in ((2,), (count, 2)):
        raise ValueError(f"'{name}' must be two numbers for each of {count} samples, not of shape {tuple(found.shape)}")
    return found.expand(count, 2)
