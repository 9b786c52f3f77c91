"""What recipes from text to image have in common: the built-in captioned digits, or captioned pictures of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.data.dataset import Batch, DataError, Dataset
from core.data.source import Source, split_source
from core.evaluation.distances import features, frechet, kernel, neighbours
from core.evaluation.options import Evaluate
from core.prompts import Captions, Conditions
from core.random import Stream, TrainingRNG
from core.recipe import Initialize, Recipe, Sampling, Training
from core.systems.diffusion import Diffusion
from image.captions import CaptionedDigits, captioned_digits, scene
from image.data import Images, open_parts
from image.detector import Detector, caption_accuracy, train_detector
from image.evaluation import evaluator
from image.folder import open_source
from image.modality import MODALITY
from image.source import PictureFiles

NEIGHBOURS = 3  # how many real pictures, or samples, a ball of precision and recall reaches

# Which digit a latent shows is decided at t = 0.6 to 0.75, so training's logit-normal times lean there.
SEMANTIC_LOGIT = 0.6


@dataclass(frozen=True)
class CaptionDropout:
    """An augmentation that takes a share of the captions away, and leaves the other conditions.

    It takes the place of ``Objective.drop`` where the null would say something false, such as another size.
    """

    share: float = 0.1
    changes_x: ClassVar[bool] = False

    def __call__(self, batch: Batch, rng: TrainingRNG) -> Batch:
        gone = (rng.uniform(Stream.DROP) < self.share).tolist()
        return {**batch, "caption": ["" if none else text for none, text in zip(gone, batch["caption"], strict=True)]}


def digits_recipe(
    system: Callable[[], Diffusion],
    shape: tuple[int, ...],
    sampling: Sampling,
    training: Training,
    count: int,
    start: Initialize | None = None,
    data: Callable[[], tuple[Dataset, Dataset]] | None = None,
) -> Recipe:
    """A recipe on ``count`` captioned digits. It is asked for captions that training never shows, and read back.

    data: what it is trained on instead, such as these digits in another frame.
    """

    def parts() -> tuple[CaptionedDigits, CaptionedDigits]:
        return captioned_digits(count)

    return Recipe(
        system,
        shape,
        sampling,
        training,
        data or parts,
        MODALITY,
        Captions(unseen_captions),
        evaluate=lambda options: caption_evaluation(*parts()),
        initialize=start,
    )


def captioned_recipe(
    system: Callable[[], Diffusion],
    shape: tuple[int, ...],
    sampling: Sampling,
    training: Training,
    data: str,
    size: int,
    start: Initialize | None = None,
    cut: Callable[[Source], Dataset] | None = None,
) -> Recipe:
    """A recipe on captioned pictures of your own (see ``image.data``), asked for the captions that are held out.

    cut: makes a data set of the training pictures, which are squares of ``size`` without it.
    """

    @cache
    def parts() -> tuple[Dataset, Images]:
        if cut is None:
            return captioned_parts(Path(data), size)
        train, held_out = split_source(open_source(Path(data)))
        return cut(train), PictureFiles(held_out, size)

    def validation(seed: int, samples: Sequence[int]) -> Conditions:
        held_out = parts()[1]
        return {"caption": [held_out.caption(number % len(held_out)) for number in samples]}

    prompts = Captions(validation)
    measured = evaluator(parts if cut is None else lambda: captioned_parts(Path(data), size))
    return Recipe(system, shape, sampling, training, parts, MODALITY, prompts, evaluate=measured, initialize=start)


def captioned_parts(path: Path, size: int) -> tuple[Images, Images]:
    """The training and the held-out part of captioned pictures. Raises DataError for pictures without captions."""
    found = open_parts(path, size)
    if not found.captioned:
        raise DataError(f"{path} has no captions: add a table such as captions.csv, or a .txt file for each picture")
    return found.train, found.held_out


def unseen_captions(seed: int, samples: Sequence[int]) -> Conditions:
    """Sample i is asked for the caption of held-out scene i."""
    scenes = [scene(0, number, held_out=True) for number in samples]
    return {"caption": [sample_features.caption for sample_features in scenes], "scene": scenes}


def caption_evaluation(train: CaptionedDigits, held_out: CaptionedDigits, real: int = 1000) -> Evaluate:
    """Train a reader on real renders; then samples are read, and compared with what their captions ask for.

    The figures of real held-out pictures are the ceiling to compare with.
    """
    detector = train_detector(train)
    shown = held_out.get(range(min(real, len(held_out))))
    ceiling = caption_accuracy(detector, shown["x"], shown["scene"])
    real_features = features(penultimate_features(detector), shown["x"])
    train_features = features(penultimate_features(detector), train.get(range(min(real, len(train))))["x"])

    def evaluate(samples: Tensor, asked: Mapping[str, Any]) -> Mapping[str, object]:
        if "scene" not in asked:
            raise ValueError(
                "these samples were asked for in words of your own: leave --prompt out to measure captions"
            )
        shown = samples.clamp(-1, 1)
        found, sample_features = (
            caption_accuracy(detector, shown, asked["scene"]),
            features(penultimate_features(detector), shown),
        )
        figures: dict[str, object] = {
            "samples": len(samples),
            "digit as asked": found.digit,
            "colour as asked": found.colour,
            "place as asked": found.place,
            "as many digits as asked": found.count,
            "whole caption": found.whole,
            "real pictures: digit, colour, place": f"{ceiling.digit:.3f}, {ceiling.colour:.3f}, {ceiling.place:.3f}",
            "Frechet distance to held-out": frechet(sample_features, real_features),
            "Frechet distance, real training images": frechet(train_features, real_features),
            "kernel distance to held-out": kernel(sample_features, real_features),
        }
        if len(samples) <= NEIGHBOURS:
            return figures
        shape = neighbours(real_features, sample_features, NEIGHBOURS)
        return figures | {"precision": shape.precision, "recall": shape.recall}

    return evaluate


def penultimate_features(detector: Detector) -> Callable[[Tensor], Tensor]:
    """The reader's last hidden layer, averaged over the picture: (B, 3, H, W) -> (B, D)."""

    def penultimate(images: Tensor) -> Tensor:
        with torch.no_grad():
            return detector.hidden(images).mean((2, 3))

    return penultimate
