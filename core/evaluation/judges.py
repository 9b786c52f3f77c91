"""The three judges of a domain's own data: of classes, of captions, and of data that have neither.

Each is a backbone of the domain with what it is trained by on top; its features are those of the backbone.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.evaluation.backbone import Backbone
from core.evaluation.judge import contrastive_loss, train_within
from core.progress import Progress

ROWS = 2**15  # of the table of words and parts of words
UNKNOWN = -1  # the label of examples of no known class
EPOCHS = 60  # at most: small data are seen by heart after that


class Classifier(nn.Module):
    """Views (B, ...) -> logits (B, classes)."""

    def __init__(self, body: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Sequential(nn.GELU(), nn.Linear(width, classes))

    def forward(self, views: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(views))
        return logits


class CaptionEncoder(nn.Module):
    """Captions -> (B, width) of length 1: the mean of learned vectors of their words, pairs of words, and parts.

    Parts of words, of three to five letters, let a word that training never showed be like those it resembles
    (1607.04606). Rows of the table are found by hash, so there is no vocabulary and no longest caption.
    """

    def __init__(self, width: int, hidden: int = 128) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(ROWS, hidden, mode="mean")
        self.body = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, captions: Sequence[str]) -> Tensor:
        rows = [caption_rows(caption) for caption in captions]
        starts = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
        device = self.table.weight.device
        bags = self.table(torch.tensor([number for row in rows for number in row]).to(device), starts.to(device))
        return F.normalize(self.body(bags), dim=-1)


class Matcher(nn.Module):
    """Captions and views in one space, on the sphere, where what belongs together lies together."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.texts = CaptionEncoder(width)
        self.project = nn.Linear(width, width)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def of_views(self, views: Tensor) -> Tensor:
        """(B, ...) -> (B, width)."""
        return F.normalize(self.project(self.body(views)), dim=-1)

    def of_texts(self, captions: Sequence[str]) -> Tensor:
        """(B,) -> (B, width)."""
        found: Tensor = self.texts(captions)
        return found


class Embedder(nn.Module):
    """A backbone with the head that only its training needs (2002.05709)."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Sequential(nn.GELU(), nn.Linear(width, width))

    def forward(self, views: Tensor) -> Tensor:
        return F.normalize(self.head(self.body(views)), dim=-1)


def train_classifier(
    backbone: Backbone, views: Tensor, labels: Tensor, classes: int, seconds: float, progress: Progress
) -> Classifier:
    """A classifier of views (N, ...) of labels (N,)."""

    def loss(judge: Classifier, rows: Tensor) -> Tensor:
        logits = judge(backbone.augment(views[rows].float()))
        return F.cross_entropy(logits, labels[rows], ignore_index=UNKNOWN, label_smoothing=0.05)

    return train_within(
        lambda: Classifier(backbone.network(views[:1].float()), backbone.width, classes),
        loss,
        len(views),
        seconds,
        _most(len(views)),
        progress=progress,
        what="training a classifier of the data",
    )


def train_matcher(
    backbone: Backbone, views: Tensor, captions: Sequence[str], seconds: float, progress: Progress
) -> Matcher:
    """A matcher of views (N, ...) and their captions (N,)."""

    def loss(judge: Matcher, rows: Tensor) -> Tensor:
        texts = [captions[row] for row in rows.tolist()]
        seen = judge.of_views(backbone.augment(views[rows].float()))
        return contrastive_loss(judge.of_texts(texts), seen, texts, judge.logit_scale)

    return train_within(
        lambda: Matcher(backbone.network(views[:1].float()), backbone.width),
        loss,
        len(views),
        seconds,
        _most(len(views)),
        progress=progress,
        what=f"training a matcher of {backbone.noun}s and captions",
    )


def train_embedder(
    backbone: Backbone, views: Tensor, seconds: float, progress: Progress, temperature: float = 0.2
) -> Embedder:
    """A network for which two distortions of a view are alike, and those of other views are not (2002.05709)."""

    def loss(judge: Embedder, rows: Tensor) -> Tensor:
        chosen = views[rows].float()
        one, other = judge(torch.cat([backbone.distort(chosen), backbone.distort(chosen)])).chunk(2)
        alike, right = one @ other.T / temperature, torch.arange(len(chosen))
        return (F.cross_entropy(alike, right) + F.cross_entropy(alike.T, right)) / 2

    return train_within(
        lambda: Embedder(backbone.network(views[:1].float()), backbone.width),
        loss,
        len(views),
        seconds,
        _most(len(views)),
        progress=progress,
        what="training features of the data",
    )


def caption_rows(caption: str) -> list[int]:
    """The rows of a caption's words, pairs of words, and parts of words."""
    return [zlib.crc32(part.encode()) % ROWS for part in _parts(caption)]


def _parts(caption: str) -> Iterator[str]:
    words = re.findall(r"[^\W\d_]+|\d|[^\w\s]|_", caption.lower())
    yield "caption"
    for word, following in zip(words, [*words[1:], ""]):
        yield f"word {word}"
        if following:
            yield f"pair {word} {following}"
        padded = f"<{word}>"
        for length in (3, 4, 5):
            yield from (padded[at : at + length] for at in range(len(padded) - length + 1))


def _most(count: int, batch: int = 64) -> int:
    """Steps of EPOCHS epochs, and at least some hundred."""
    return max(400, EPOCHS * count // batch)
