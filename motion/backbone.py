"""How motions become features for judges: a small transformer over windows, blind to frames that do not exist.

A view is a window with a last column that says which frames exist. Judges are not shown contacts, which a threshold
could give away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.evaluation.backbone import Backbone, Change
from motion.mirror import mirror
from motion.nn.mdm import Encoder

STRIDE = 4  # frames that become one place
CONTACTS = 4  # the last features
JITTER = 0.3  # deviation of the noise that training adds, so that no single number decides
SPEEDS = 0.15  # by how much the numbers of a window are scaled when two distortions of it are to be found alike
WIDTH = 64


def view(batch: Mapping[str, Any]) -> Tensor:
    """Windows (B, T, D) and which frames exist -> (B, T, D + 1)."""
    x: Tensor = batch["x"].float()
    found = batch.get("valid")
    exists = torch.ones(x.shape[:2]) if found is None else torch.as_tensor(found).to(x)
    return torch.cat([x * exists[..., None], exists[..., None]], dim=-1)


class Network(nn.Module):
    """Views (B, T, D + 1) -> features (B, WIDTH), a mean over places of four frames."""

    def __init__(self, features: int, depth: int = 2) -> None:
        super().__init__()
        self.proj_in = nn.Conv1d(features - CONTACTS, WIDTH, STRIDE, STRIDE)
        self.start = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.body = Encoder(WIDTH, 2 * WIDTH, depth, 4, dropout=0.1)

    def forward(self, views: Tensor) -> Tensor:
        views = F.pad(views, (0, 0, 0, -views.shape[1] % STRIDE))
        x, exists = views[..., : -1 - CONTACTS], views[..., -1].unflatten(1, (-1, STRIDE)).amax(-1) > 0
        x = x * views[..., -1:]
        places = self.proj_in(x.transpose(1, 2)).transpose(1, 2)
        seen = self.body(places, self.start.expand(len(x), -1, -1), None, exists) * exists[..., None]
        mean: Tensor = seen.sum(1) / exists.sum(1, keepdim=True).clamp_min(1)
        return mean


def network(example: Tensor) -> nn.Module:
    """An untrained network of views like this one (1, T, D + 1)."""
    return Network(example.shape[-1] - 1)


def mirror_views(views: Tensor) -> Tensor:
    """Mirror images of views whose normalisation is that of both sides."""
    return torch.cat([mirror(views[..., :-1]), views[..., -1:]], dim=-1)


def change(mirrored: bool) -> Change:
    """Noise on the features and, where neither classes nor captions know sides, mirror images of half of the views."""

    def changed(views: Tensor) -> Tensor:
        if mirrored:
            turned = torch.rand(len(views)) < 0.5
            views = torch.where(turned[:, None, None], mirror_views(views), views)
        noise = JITTER * torch.randn_like(views[..., :-1])
        return torch.cat([(views[..., :-1] + noise) * views[..., -1:], views[..., -1:]], dim=-1)

    return changed


def distort(views: Tensor) -> Tensor:
    """Views scaled, with noise, and cut at either end at random."""
    exists = views[..., -1:]
    scale = 1 + SPEEDS * (2 * torch.rand(len(views), 1, 1) - 1)
    place = torch.linspace(0, 1, views.shape[1])[None, :, None]
    first, last = 0.25 * torch.rand(len(views), 1, 1), 1 - 0.25 * torch.rand(len(views), 1, 1)
    kept = exists * ((place >= first) & (place <= last))
    changed = views[..., :-1] * scale + JITTER * torch.randn_like(views[..., :-1])
    return torch.cat([changed * kept, kept], dim=-1)


def backbone(mirrored: bool) -> Backbone:
    """The backbone of motions; mirrored: whether the mirror image of a window is of the same class and caption."""
    return Backbone(view, network, change(mirrored), distort, WIDTH, "window")
