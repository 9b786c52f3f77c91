"""A judge of classes: which style or action a clip shows, learned from training windows alone.

It sees what the matcher sees, features without contacts, and never the model that it judges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.dataset import HasAugmentation
from core.evaluation.judge import train_judge
from core.evaluation.options import Track, untracked
from core.random import TrainingRNG
from motion.data import MotionFiles
from motion.nn.mdm import Encoder

STRIDE = 4  # frames that become one place
CONTACTS = 4  # the last features, which it is not shown
JITTER = 0.3  # deviation of the noise that training adds to the features, so that no single one decides
STEPS = 1200  # at most


class Classifier(nn.Module):
    """Normalised features (B, T, D) -> logits of classes (B, classes); ``embed`` gives what they are read from."""

    def __init__(self, features: int, classes: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.proj_in = nn.Conv1d(features - CONTACTS, width, STRIDE, STRIDE)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.body = Encoder(width, 2 * width, depth, 4, dropout=0.1)
        self.proj_out = nn.Linear(width, classes)

    def embed(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, T, D), valid (B, T) -> (B, width), the mean over places; frames that do not count change nothing."""
        x = x * valid[..., None]
        spare = -x.shape[1] % STRIDE
        x, valid = F.pad(x, (0, 0, 0, spare)), F.pad(valid, (0, spare))
        places = self.proj_in(x[..., :-CONTACTS].transpose(1, 2)).transpose(1, 2)
        exists = valid.unflatten(1, (-1, STRIDE)).any(-1)
        seen = self.body(places, self.start.expand(len(x), -1, -1), None, exists) * exists[..., None]
        mean: Tensor = seen.sum(1) / exists.sum(1, keepdim=True).clamp_min(1)
        return mean

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        logits: Tensor = self.proj_out(self.embed(x, valid))
        return logits


def train_classifier(
    data: MotionFiles, classes: int, seconds: float, track: Track = untracked, batch: int = 48, seed: int = 0
) -> Classifier:
    """A classifier of windows, trained within so many seconds; classes are met equally often, beginnings are drawn."""
    labels = torch.tensor([piece.label for piece in data.pieces])
    weights = 1 / torch.bincount(labels, minlength=classes).clamp_min(1)[labels].double()

    def losses(count: int, name: str) -> Callable[[Classifier], Iterator[Tensor]]:
        def of(judge: Classifier) -> Iterator[Tensor]:
            generator = torch.Generator().manual_seed(seed)
            for step in track(range(count), name):
                rows = torch.multinomial(weights, batch, replacement=True, generator=generator).tolist()
                shown = _drawn(data, rows, TrainingRNG(seed, range(step * batch, (step + 1) * batch)))
                x = shown["x"] + JITTER * torch.randn(shown["x"].shape, generator=generator)
                yield F.cross_entropy(judge(x, shown["valid"]), shown["label"], label_smoothing=0.05)

        return of

    def make() -> Classifier:
        return Classifier(data.skeleton.features, classes)

    began = time.monotonic()
    train_judge(make, losses(4, "timing the judge"), 1e-3)
    each = (time.monotonic() - began) / 4
    count = min(max(int((seconds - 4 * each) / each), 1), STEPS)
    return train_judge(make, losses(count, "training the judge of classes"), 2e-3, count, seed=seed)


def _drawn(data: MotionFiles, rows: list[int], rng: TrainingRNG) -> Mapping[str, Any]:
    return data.get_augmented(rows, rng) if isinstance(data, HasAugmentation) else data.get(rows)
