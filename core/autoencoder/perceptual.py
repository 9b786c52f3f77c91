"""Perceptual distance: how far two pictures are apart in the feature maps of a network (LPIPS, 1801.03924).

d(x, y) = sum over layers of mean over places of  w_l . (f_l(x) / |f_l(x)| - f_l(y) / |f_l(y)|)^2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Features = Callable[[Tensor], Sequence[Tensor]]  # (B, C, *grid) -> feature maps (B, C_l, *grid_l)


class Perceptual(nn.Module):
    """The distance in the features of any network; it is not trained."""

    def __init__(self, features: Features, weights: Sequence[Tensor] | None = None) -> None:
        """weights: of the channels of each layer, (C_l,); all 1 / C_l without them."""
        super().__init__()
        self.features = features
        self.weights = None if weights is None else [weight.clone() for weight in weights]
        if isinstance(features, nn.Module):
            features.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Perceptual:
        """Stays as it is: the network is not trained here."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,), differentiable in both."""
        total = torch.zeros(len(x), device=x.device)
        for layer, (one, other) in enumerate(zip(self.features(x), self.features(y), strict=True)):
            difference = (F.normalize(one, dim=1, eps=1e-10) - F.normalize(other, dim=1, eps=1e-10)) ** 2
            if self.weights is None:
                each = difference.mean(1)
            else:
                each = torch.einsum("bc...,c->b...", difference, self.weights[layer].to(difference))
            total = total + each.flatten(1).mean(1)
        return total
