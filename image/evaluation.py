"""Evaluation against a recipe's own data, in the features of a classifier trained on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.evaluation.distances import features, frechet, kernel, nearest_median, neighbours
from core.evaluation.options import Evaluate, EvaluationOptions
from core.model import Prepare
from image.data import Images
from image.metrics import accuracy, train_classifier

LIMIT = 10_000  # real images that are compared with


def evaluator(parts: Callable[[], tuple[Images, Images]]) -> Prepare:
    """An evaluation that reads the data and trains its classifier when it is called."""

    def prepare(options: EvaluationOptions) -> Evaluate:
        train, held_out = (part.get(range(min(len(part), LIMIT))) for part in parts())
        return evaluate_against(train, held_out)

    return prepare


def evaluate_against(train: Mapping[str, Tensor], held_out: Mapping[str, Tensor]) -> Evaluate:
    """Distances of samples to held-out images, with intervals; how close they come to training images.

    Without labels the features are the pixels themselves. The figures of the training images are the floor to compare
    with: what perfect samples would get.
    """
    classifier = train_classifier(train["x"], train["label"]) if "label" in train else None
    embed: Callable[[Tensor], Tensor] = torch.nn.Flatten() if classifier is None else classifier.features
    train_features, held_out_features = features(embed, train["x"]), features(embed, held_out["x"])
    pixels = train["x"].flatten(1)

    def evaluate(samples: Tensor, asked: Mapping[str, Any]) -> Mapping[str, object]:
        shown = samples.clamp(-1, 1)
        sample_features = features(embed, shown)
        shape = neighbours(held_out_features, sample_features)
        figures: dict[str, object] = {
            "samples": len(samples),
            "Frechet distance to held-out": frechet(sample_features, held_out_features),
            "Frechet distance, real training images": frechet(train_features, held_out_features),
            "kernel distance to held-out": kernel(sample_features, held_out_features, groups=50),
            "precision": shape.precision,
            "recall": shape.recall,
            "density": shape.density,
            "coverage": shape.coverage,
            "nearest training image (median L2)": nearest_median(shown.flatten(1), pixels, groups=50),
            "nearest training image of held-out": nearest_median(held_out["x"].flatten(1), pixels),
        }
        if classifier is not None and "label" in asked:
            figures["read as the asked class"] = accuracy(classifier, shown, asked["label"])
        return figures

    return evaluate
