"""Data encoded by a codec once, in memory, so that training does not encode the same pictures again and again.

What cannot lie in memory belongs into a cache on disk (``core.train.cache``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.codec import Codec
from core.data.dataset import Batch, Dataset
from core.train.order import example_order


class PrecomputedLatents:
    """A data set with ``codec.moments(x)`` under "moments" in place of "x", and everything else as it was."""

    def __init__(self, data: Dataset, codec: Codec, device: torch.device, batch: int = 256) -> None:
        """Describes all of the data; ``batch`` examples at once."""
        self.data = data
        found: list[Tensor] = []
        self.rest: dict[str, list[Any]] = {}
        for start in range(0, len(data), batch):
            rows = data.get(range(start, min(start + batch, len(data))))
            with torch.no_grad():
                found.append(codec.moments(rows["x"].to(device)).cpu())
            for name, values in rows.items():
                if name != "x":
                    self.rest.setdefault(name, []).extend(values)
        self.moments = torch.cat(found)

    def __len__(self) -> int:
        return len(self.moments)

    def example_order(self, seed: int, positions: Sequence[int]) -> list[int]:
        """The order of the data below."""
        return example_order(self.data, seed, positions)

    def get(self, indices: Sequence[int]) -> Batch:
        """Descriptions and everything else at some indices."""
        batch: dict[str, Any] = {"moments": self.moments[torch.as_tensor(indices, dtype=torch.long)]}
        for name, values in self.rest.items():
            chosen = [values[index] for index in indices]
            batch[name] = torch.stack(chosen) if isinstance(chosen[0], Tensor) else chosen
        return batch
