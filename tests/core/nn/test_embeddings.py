"""What is made of a time is made once a time, and what a batch of times asks for is not kept."""

from __future__ import annotations

import torch
from torch import Tensor

from core.nn.embeddings import memoize_by_time


def test_each_single_time_is_made_once() -> None:
    asked: list[list[float]] = []

    def make(time: Tensor) -> Tensor:
        asked.append(time.tolist())
        return 2 * time

    of = memoize_by_time(make)
    for time in (0.25, 0.5, 0.25):
        assert of(torch.tensor(time)).tolist() == [2 * time]
    assert of(torch.tensor([0.25, 0.5])).tolist() == [0.5, 1.0]
    assert asked == [[0.25], [0.5], [0.25, 0.5]]
