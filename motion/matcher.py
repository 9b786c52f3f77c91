"""A matcher of texts and motions: two encoders into one space, trained so that what belongs together lies together.

It judges samples, so it never sees the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.dataset import Dataset
from core.evaluation.judge import contrastive_loss, train_judge
from core.nn.text import TextEncoder
from core.text.words import Words
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
        return contrastive_loss(self.of_texts(captions), self.of_motions(x, valid), captions, self.logit_scale)


def train_matcher(
    data: Dataset, features: int, clips: int = 4096, steps: int = 800, batch: int = 64, lr: float = 1e-3, seed: int = 0
) -> Matcher:
    """A matcher trained on the first clips of a data set; the same data and seed give the same matcher."""
    generator = torch.Generator().manual_seed(seed)
    shown: Mapping[str, Any] = data.get(range(min(clips, len(data))))
    x, valid, captions = shown["x"], shown["valid"], shown["caption"]

    def losses(matcher: Matcher) -> Iterator[Tensor]:
        for _ in range(steps):
            rows = torch.randperm(len(x), generator=generator)[:batch]
            yield matcher.loss(x[rows], valid[rows], [captions[row] for row in rows.tolist()])

    return train_judge(lambda: Matcher(features), losses, lr, steps, seed=seed)
