"""Random parameters, under which two implementations agree only if every tensor has its place."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


@torch.no_grad()
def randomise(net: Net, seed: int | None = None, size: float = 0.08, buffers: bool = False) -> Net:
    """Scales of norms near 1 and all else small and random, so that no tensor equals another; returns the net.

    seed: of a generator of its own, torch's without one; size: the deviation of what is no scale; buffers: those that
    are saved too, such as positions.
    """
    generator = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
    for name, value in (net.state_dict() if buffers else dict(net.named_parameters())).items():
        noise = torch.randn(value.shape, generator=generator)
        scales = name.endswith("scale") or (value.ndim == 1 and name.endswith("weight"))
        value.copy_(1 + 0.1 * noise if scales else size * noise)
    return net.eval()
