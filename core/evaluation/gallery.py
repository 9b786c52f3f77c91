"""Real examples that an evaluation keeps in memory: how a judge sees them, and what they are called."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.data.dataset import Dataset
from core.progress import Progress

MEMORY = 2**28  # bytes of the views of one part of the data
BATCH = 64
LEAST = 2 * BATCH  # examples that are read even where the time is short


@dataclass(frozen=True)
class Gallery:
    """Examples of a data set in random order."""

    data: Dataset
    indices: tuple[int, ...]
    views: Tensor  # (N, ...) float16
    labels: Tensor | None  # (N,)
    captions: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.indices)


def read_gallery(
    data: Dataset,
    view: Callable[[Mapping[str, Any]], Tensor],
    seconds: float,
    progress: Progress,
    what: str,
    limit: int = 2**62,
) -> Gallery:
    """Examples drawn from a data set, at most ``limit``, as many as fit into MEMORY and can be read in the time."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()[:limit]
    views, labels, captions = list[Tensor](), list[Tensor](), list[str]()
    began, count, room = time.monotonic(), 0, len(order)
    for first in progress.track(range(0, len(order), BATCH), what):
        if first >= room or (first >= LEAST and time.monotonic() - began > seconds):
            break
        batch = data.get(order[first : first + BATCH])
        seen = view(batch).half()
        room = min(room, max(LEAST, MEMORY // (2 * seen[0].numel())))
        views.append(seen)
        labels += [batch["label"]] if "label" in batch else []
        captions += batch.get("caption", [])
        count += len(seen)
    return Gallery(
        data,
        tuple(order[:count]),
        torch.cat(views),
        torch.cat(labels).long() if labels else None,
        tuple(captions) if captions else None,
    )


def conditions_of(data: Dataset, index: int) -> dict[str, Any]:
    """All that a data set says of an example but what it is, batched."""
    return {name: value for name, value in data.get([index]).items() if name not in ("x", "moments")}
