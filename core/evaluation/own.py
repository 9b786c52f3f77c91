"""Evaluation against a recipe's own data: judges are trained on the training part, samples compared with the other.

Real data stand beside every figure. Where a distance between sets is measured, the held-out examples are halved: what
one half is to the other is what perfect samples would be, and samples are compared with as many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.data.dataset import Dataset
from core.evaluation import names
from core.evaluation.backbone import Backbone
from core.evaluation.distances import (
    features,
    frechet_distance,
    frechet_unbiased,
    kernel,
    moments,
    neighbours,
)
from core.evaluation.gallery import conditions_of, read_gallery
from core.evaluation.interval import average, share
from core.evaluation.judges import UNKNOWN, Classifier, Matcher, train_classifier, train_embedder, train_matcher
from core.evaluation.memorised import LEAST, TAIL, Originals, points
from core.evaluation.options import Evaluate, EvaluationOptions
from core.evaluation.retrieval import chance, r_precision

MOST = 5000  # examples that samples are compared with, at most
KERNEL = 1000  # of either set, for the kernel distance
PER_DIMENSION = 8  # samples that a Frechet distance needs for each dimension of its features
HALVINGS = 8
LOSSES = 256  # examples of either part whose loss is measured, at most
READING, TRAINING, LOSING = 0.35, 0.85, 0.1  # shares of the time, the first two one after the other


def no_network(options: EvaluationOptions) -> None:
    """Raises ValueError where a network is named, of a domain that reads none."""
    if options.features is not None:
        raise ValueError("this kind of data is measured by judges of its own: leave --features out")


def evaluator(
    parts: Callable[[], tuple[Dataset, Dataset]],
    backbone: Backbone,
    published: Callable[[EvaluationOptions], Backbone | None] = no_network,
) -> Callable[[EvaluationOptions], Evaluate]:
    """An evaluation for any domain: of the training and the held-out part of its data, and its backbone.

    published: the backbone that a network in ``options.features`` makes, if one is named.
    """

    def prepare(options: EvaluationOptions) -> Evaluate:
        return OwnEvaluation(*parts(), published(options) or backbone, options)

    return prepare


class OwnEvaluation:
    """Samples measured against one's own data. Its judges are trained when it is made."""

    def __init__(self, train: Dataset, held_out: Dataset, backbone: Backbone, options: EvaluationOptions) -> None:
        began = time.monotonic()
        self.backbone, self.options = backbone, options
        reading, progress, noun = options.seconds * READING, options.progress, backbone.noun
        self.held_out = read_gallery(held_out, backbone.view, reading / 3, progress, f"reading held-out {noun}s", MOST)
        left = reading - (time.monotonic() - began)
        self.train = read_gallery(train, backbone.view, left, progress, f"reading training {noun}s")
        left = TRAINING * options.seconds - (time.monotonic() - began)
        self._train_judges(max(left, options.seconds / 4))
        self.known = set(self.train.captions or ())
        known, held_out_views = self.train.views[:MOST], self.held_out.views
        self.content = Space(self.body, known, held_out_views)
        self.detail = None if backbone.details is None else Space(backbone.details, known, held_out_views)
        self.originals = None
        if len(self.held_out) >= LEAST:
            self.originals = Originals(points(self.train.views), points(held_out_views))

    def conditions(self, seed: int, samples: Sequence[int]) -> Mapping[str, Any]:
        """Those of held-out examples; with captions, every second sample has one that was seen in training."""
        held_out, train = self.held_out, self.train
        new = [row for row, caption in enumerate(held_out.captions or ()) if caption not in self.known]
        each = []
        for number in samples:
            seen = bool(new) and number % 2 == 1
            gallery, rows = (train, range(len(train))) if seen else (held_out, new or range(len(held_out)))
            row = rows[(number // 2 if new else number) % len(rows)]
            each.append(conditions_of(gallery.data, gallery.indices[row]))
        return {name: _joined([found[name] for found in each]) for name in (each[0] if each else ())}

    @torch.no_grad()
    def __call__(self, samples: Tensor, asked: Mapping[str, Any]) -> Mapping[str, object]:
        """Figures of samples (N, ...) by name, those of real data under the same name and ``REAL``."""
        views = torch.cat([self.backbone.view(batch) for batch in _batches({"x": samples, **asked})]).half()
        figures: dict[str, object] = {names.SAMPLES: len(samples), names.HELD_OUT: len(self.held_out)}
        figures |= self._distances(views) | self._as_asked(views, asked) | self._captions(views, asked)
        if self.originals is not None:
            near = self.originals.nearness(points(views))
            figures |= {names.MEMORISED: near.memorised, names.MEMORISED + names.REAL: TAIL}
            figures |= {names.NEAREST: near.distance, names.NEAREST + names.REAL: near.distance_real}
        return figures | self._losses()

    def _train_judges(self, seconds: float) -> None:
        train, backbone, progress = self.train, self.backbone, self.options.progress
        self.classifier: Classifier | None = None
        self.matcher: Matcher | None = None
        classes = 0 if train.labels is None else max(_largest(train.labels), _largest(self.held_out.labels)) + 1
        named = train.captions is not None and len(set(train.captions)) > 1
        learnt = named and backbone.texts is None
        # A matcher has more to learn than a classifier.
        of_classes, of_captions = (1 / 3, 2 / 3) if learnt and classes > 1 else (1.0, 1.0)
        body: Callable[[Tensor], Tensor] | None = nn.Flatten() if backbone.published else None
        if classes > 1:
            assert train.labels is not None
            self.classifier = train_classifier(
                backbone, train.views, train.labels, classes, seconds * of_classes, progress
            )
            body = body or self.classifier.body
        if learnt:
            assert train.captions is not None
            self.matcher = train_matcher(backbone, train.views, train.captions, seconds * of_captions, progress)
            body = body or self.matcher.body
        self.body = body or train_embedder(backbone, train.views, seconds, progress).body

    def _distances(self, views: Tensor) -> dict[str, object]:
        """How far samples are from held-out examples, and how far two halves of those are from each other."""
        size = min(len(views), len(self.held_out) // 2)
        if size < 2 * PER_DIMENSION:
            return {}
        real, fake = self.content.compared(views)
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
        one, other = real[order[:size]], real[order[size : 2 * size]]
        raw, floor = _equal_numbers(fake, real, size)
        fine: dict[str, object] = {}
        if self.detail is not None:
            detail_real, detail = self.detail.compared(views)
            halves = detail_real[order[:size]], detail_real[order[size : 2 * size]]
            fine = _beside(names.DETAIL, frechet_unbiased(detail, detail_real), frechet_unbiased(*halves))
        shape, shape_real = (neighbours(one, each, 3, 5) for each in (fake[:size], other))
        few = [each[:KERNEL] for each in (fake, real, one, other)]
        return {
            names.DIMENSIONS: real.shape[1],
            **_beside(names.FRECHET, frechet_unbiased(fake, real), frechet_unbiased(other, one)),
            **_beside(names.FRECHET_RAW, raw, floor),
            **fine,
            **_beside(names.KERNEL_DISTANCE, kernel(few[0], few[1], groups=25), kernel(few[3], few[2], groups=25)),
            **_beside(names.PRECISION, shape.precision, shape_real.precision),
            **_beside(names.RECALL, shape.recall, shape_real.recall),
            **_beside(names.DENSITY, shape.density, shape_real.density),
            **_beside(names.COVERAGE, shape.coverage, shape_real.coverage),
        }

    def _as_asked(self, views: Tensor, asked: Mapping[str, Any]) -> dict[str, object]:
        classifier, labels = self.classifier, self.held_out.labels
        if classifier is None or labels is None or "label" not in asked:
            return {}
        shares = []
        for each, own in ((views, torch.as_tensor(asked["label"])), (self.held_out.views, labels)):
            known = own != UNKNOWN
            if not bool(known.any()):
                return {}
            shares.append(share(_in_batches(classifier, each[known]).argmax(1) == own[known]))
        return _beside(names.AS_ASKED, *shares)

    def _captions(self, views: Tensor, asked: Mapping[str, Any]) -> dict[str, object]:
        """R-precision of samples and of real examples, of captions that training had and of others."""
        texts = self.backbone.texts or (self.matcher.of_texts if self.matcher is not None else None)
        if texts is None or "caption" not in asked or self.train.captions is None:
            return {}
        found: dict[str, object] = {}
        for name, gallery, known in ((names.SEEN_CAPTION, self.train, True), (names.NEW_CAPTION, self.held_out, False)):
            captions = [str(caption) for caption in asked["caption"]]
            rows = [row for row, caption in enumerate(captions) if (caption in self.known) == known]
            real = [row for row, c in enumerate(gallery.captions or ()) if (c in self.known) == known][:MOST]
            if min(len(rows), len(real)) < 2:
                continue
            assert gallery.captions is not None
            own, theirs = [captions[row] for row in rows], [gallery.captions[row] for row in real]
            pool = sorted({*own, *theirs})
            where = torch.cat([texts(pool[start : start + 256]) for start in range(0, len(pool), 256)])
            found |= _beside(
                name,
                r_precision(self._places(views[rows]), own, pool, where),
                r_precision(self._places(gallery.views[real]), theirs, pool, where),
            )
            found[name + names.CHANCE] = chance(len(pool))
        return found

    def _places(self, views: Tensor) -> Tensor:
        of_views = nn.functional.normalize if self.matcher is None else self.matcher.of_views
        return _in_batches(of_views, views)

    def _losses(self) -> dict[str, object]:
        """The model's loss on held-out and on training examples, for the same noise."""
        if self.options.loss is None:
            return {}
        found: dict[str, object] = {}
        for name, gallery in ((names.LOSS, self.held_out), (names.TRAINING_LOSS, self.train)):
            began, each = time.monotonic(), list[Tensor]()
            indices = gallery.indices[: min(LOSSES, len(self.held_out), len(self.train))]
            for first in self.options.progress.track(range(0, len(indices), 32), name):
                if first and time.monotonic() - began > LOSING / 2 * self.options.seconds:
                    break
                rows = indices[first : first + 32]
                each.append(self.options.loss(gallery.data.get(rows), range(first, first + len(rows))).double().cpu())
            found[name] = average(torch.cat(each))
        return found


class Space:
    """Features on the principal axes of real ones, whose total variance is 1, and those of held-out examples there."""

    def __init__(self, network: Callable[[Tensor], Tensor], known: Tensor, held_out: Tensor) -> None:
        """known: views of training examples, by which the axes are found."""
        self.network = network
        found = self._features(known)
        self.centre = found.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(found.T).view(found.shape[1], -1))
        self.axes = vectors.flip(1) / values.clamp(min=0).sum().sqrt().clamp(min=1e-12)
        self.real = self._features(held_out)

    def compared(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Held-out examples (H, D) and samples (N, D) on as many axes as so few can be compared on."""
        kept = max(1, min(self.axes.shape[1], len(views) // PER_DIMENSION, len(self.real) // PER_DIMENSION))
        axes = self.axes[:, :kept]
        return (self.real - self.centre) @ axes, (self._features(views) - self.centre) @ axes

    def _features(self, views: Tensor) -> Tensor:
        return features(lambda rows: self.network(rows.float()), views)


def _beside(name: str, value: object, real: object) -> dict[str, object]:
    return {name: value, name + names.REAL: real}


def _equal_numbers(fake: Tensor, real: Tensor, size: int) -> tuple[float, float]:
    """The Frechet distance of ``size`` samples and as many real ones, and of two such parts of the real ones.

    It is above 0 for equal laws, as published ones are, by what so few samples make it; so only the two compare.
    """
    generator, found, floor = torch.Generator().manual_seed(0), 0.0, 0.0
    for _ in range(HALVINGS):
        order, drawn = (torch.randperm(len(each), generator=generator) for each in (real, fake))
        one, other = moments(real[order[:size]]), moments(real[order[size : 2 * size]])
        found += frechet_distance(moments(fake[drawn[:size]]), one) / HALVINGS
        floor += frechet_distance(other, one) / HALVINGS
    return found, floor


def _largest(labels: Tensor | None) -> int:
    return -1 if labels is None else int(labels.max())


def _in_batches(network: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
    return torch.cat([network(rows.float()) for rows in views.split(256)])


def _batches(batch: Mapping[str, Any], size: int = 256) -> list[Mapping[str, Any]]:
    starts = range(0, len(batch["x"]), size)
    return [{name: value[start : start + size] for name, value in batch.items()} for start in starts]


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(list(values))
    return [item for value in values for item in value]
