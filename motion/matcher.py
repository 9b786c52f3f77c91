"""A matcher of texts and motions: two encoders into one space, trained so that what belongs together lies together.

The loss is symmetric cross-entropy over a batch, in which each caption is to find its motion and each motion its
caption (2103.00020, section 2.3). Equal captions are no rivals. It judges samples, so it never sees the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.condition.words import Words
from core.data.dataset import Dataset
from core.nn.text import TextEncoder
from motion.nn.mdm import Encoder

LONGEST = 40  # words of a caption
STRIDE = 4  # frames that become one place


class Matcher(nn.Module):
    """Captions and normalised features (B, T, D) -> points (B, width) at distance 1 from the origin."""

    def __init__(self, features: int, width: int = 96, depth: int = 2, unseen: int = 4) -> None:
        """unseen: the last features that it is not shown: contacts, which a threshold could give away."""
        super().__init__()
        self.features, self.unseen = features, unseen
        self.words = Words(TextEncoder(width, depth, 4, LONGEST), vector=width)
        self.proj_in = nn.Conv1d(features - unseen, width, STRIDE, STRIDE)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.body = Encoder(width, 2 * width, depth, 4, dropout=0.0)
        self.pool = nn.Linear(width, width)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def of_motions(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, T, D), valid (B, T) -> (B, width); frames that do not count change nothing."""
        x = x * valid[..., None]
        spare = -x.shape[1] % STRIDE
        x, valid = F.pad(x, (0, 0, 0, spare)), F.pad(valid, (0, spare))
        places = self.proj_in(x[..., : self.features - self.unseen].transpose(1, 2)).transpose(1, 2)
        exists = valid.unflatten(1, (-1, STRIDE)).any(-1)  # (B, T / STRIDE)
        seen = self.body(places, self.start.expand(len(x), -1, -1), None, exists) * exists[..., None]
        return F.normalize(self.pool(seen.sum(1) / exists.sum(1, keepdim=True)), dim=-1)

    def of_texts(self, captions: Sequence[str]) -> Tensor:
        """Captions -> (B, width)."""
        vector = self.words.encode(captions).vector
        assert vector is not None
        return F.normalize(vector, dim=-1)

    def loss(self, x: Tensor, valid: Tensor, captions: Sequence[str]) -> Tensor:
        """The contrastive loss of a batch, ()."""
        alike = self.of_texts(captions) @ self.of_motions(x, valid).T * self.logit_scale.exp().clamp(max=100)
        rivals = torch.tensor([[a == b for b in captions] for a in captions], device=alike.device)
        rivals.fill_diagonal_(False)
        alike = alike.masked_fill(rivals, -1e4)
        right = torch.arange(len(alike), device=alike.device)
        return (F.cross_entropy(alike, right) + F.cross_entropy(alike.T, right)) / 2


def train_matcher(
    data: Dataset, features: int, clips: int = 4096, steps: int = 800, batch: int = 64, lr: float = 1e-3, seed: int = 0
) -> Matcher:
    """A matcher trained on the first clips of a data set; the same data and seed give the same matcher."""
    generator = torch.Generator().manual_seed(seed)
    shown: Mapping[str, Any] = data.get(range(min(clips, len(data))))
    x, valid, captions = shown["x"], shown["valid"], shown["caption"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        matcher = Matcher(features)
    optimiser = torch.optim.AdamW(matcher.parameters(), lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    for _ in range(steps):
        rows = torch.randperm(len(x), generator=generator)[:batch]
        optimiser.zero_grad()
        loss = matcher.loss(x[rows], valid[rows], [captions[row] for row in rows.tolist()])
        loss.backward()
        optimiser.step()
        schedule.step()
    return matcher.eval().requires_grad_(False)
