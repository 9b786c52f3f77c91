"""A network over a grid, given pictures of any size: squares of pixels become channels, other sides are padded.

    y = crop(unfold(net(fold(pad(x)))))          fold: (B, C, H, W) -> (B, C p^2, H / p, W / p)

Where processors are slow, most of a U-Net's time goes into its finest level, which sees little: folding by p leaves
that level out (2301.11093, section 2.3, there with wavelets).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond


class Folded(nn.Module):
    """``net`` on pictures folded by ``fold`` and padded to a multiple of ``fold * multiple``: C fold^2 channels."""

    def __init__(self, net: nn.Module, fold: int, multiple: int) -> None:
        """multiple: what the sides of the network's own grid must divide by."""
        super().__init__()
        self.net = net
        self.embedded: int = getattr(net, "embedded", 0)  # the width of its embedding
        self.fold = fold
        self.step = fold * multiple

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """x (B, C, H, W) and time (B,) -> the network's output, laid out like x."""
        return self._around(x, lambda small: self.net(small, time, cond))

    def _around(self, x: Tensor, inside: Callable[[Tensor], Tensor]) -> Tensor:
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % self.step, 0, -height % self.step))
        if self.fold == 1:
            return inside(padded)[..., :height, :width]
        return F.pixel_shuffle(inside(F.pixel_unshuffle(padded, self.fold)), self.fold)[..., :height, :width]

    def prepare(self, cond: Cond) -> Callable[[Tensor, Tensor], Tensor]:
        """The network with its condition inside, whose share of the work is done once where it can be."""
        prepare = getattr(self.net, "prepare", None)
        if prepare is None:
            return lambda x, time: self(x, time.expand(len(x)), cond)
        inside: Callable[[Tensor, Tensor], Tensor] = prepare(cond)
        return lambda x, time: self._around(x, lambda small: inside(small, time))
