"""Text to image on the captioned digits is measured by reading pictures back; distances are in any features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.evaluation.distances import features, frechet, kernel, kernel_subsets, neighbours
from core.evaluation.interval import ConfidenceInterval
from core.model import Evaluate
from core.prompts import Captions
from image import captioned
from image.captioned import caption_evaluation, unseen_captions
from image.captions import CaptionedDigits, captioned_digits
from image.detector import train_detector
from image.features import timm_features


@pytest.fixture(scope="module")
def parts() -> tuple[CaptionedDigits, CaptionedDigits]:
    return captioned_digits(400)


@pytest.fixture(scope="module")
def measured(parts: tuple[CaptionedDigits, CaptionedDigits]) -> Evaluate:
    """A measure whose reader has learned for a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captioned, "train_detector", lambda data: train_detector(data, steps=12))
        return caption_evaluation(*parts, real=64)


def pictures(count: int, held_out: CaptionedDigits) -> tuple[Tensor, dict[str, object]]:
    shown = held_out.get(range(count))
    return shown["x"], {"caption": shown["caption"], "scene": shown["scene"]}


def test_samples_are_asked_for_what_training_never_shows(parts: tuple[CaptionedDigits, CaptionedDigits]) -> None:
    train, held_out = parts
    asked = unseen_captions(0, range(20))
    assert list(asked["caption"]) == list(held_out.get(range(20))["caption"])
    assert [scene.caption for scene in asked["scene"]] == list(asked["caption"])
    assert not set(asked["caption"]) & set(train.get(range(len(train)))["caption"])
    assert unseen_captions(3, [7])["caption"] == asked["caption"][7:8]


def test_captions_as_a_person_types_them() -> None:
    prompts = Captions(unseen_captions)
    assert prompts.parse("a red 7", 3) == {"caption": ["a red 7"] * 3}
    assert prompts.parse("a red 7; a blue 2", 3) == {"caption": ["a red 7", "a blue 2", "a red 7"]}


def test_the_figures_of_a_measure(measured: Evaluate, parts: tuple[CaptionedDigits, CaptionedDigits]) -> None:
    x, asked = pictures(48, parts[1])
    figures = measured(x, asked)
    for name in ("digit as asked", "colour as asked", "place as asked", "as many digits as asked", "whole caption"):
        assert isinstance(figures[name], float) and 0 <= figures[name] <= 1, name
    assert figures["samples"] == 48
    noise = measured(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), asked)
    for name in ("Frechet distance to held-out", "kernel distance to held-out"):
        near, far = figures[name], noise[name]
        assert (
            isinstance(near, ConfidenceInterval) and isinstance(far, ConfidenceInterval) and near.value < far.value
        ), name
    for name in ("precision", "recall"):
        near, far = figures[name], noise[name]
        assert (
            isinstance(near, ConfidenceInterval) and isinstance(far, ConfidenceInterval) and near.value > far.value
        ), name


def test_few_samples_have_captions_but_no_neighbours(
    measured: Evaluate, parts: tuple[CaptionedDigits, CaptionedDigits]
) -> None:
    figures = measured(*pictures(3, parts[1]))
    assert "digit as asked" in figures and "precision" not in figures


def test_words_of_one_s_own_cannot_be_measured(measured: Evaluate) -> None:
    with pytest.raises(ValueError, match="leave --prompt out"):
        measured(torch.zeros(4, 3, 32, 32), Captions(unseen_captions).parse("a red 7", 4))


def test_distances_are_in_any_features(parts: tuple[CaptionedDigits, CaptionedDigits]) -> None:
    """A network of timm, the pixels themselves, or any function: equal laws are nearer than noise in all of them."""
    train, held_out = (part.get(range(96))["x"] for part in parts)
    noise = torch.rand(train.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shrunk = torch.nn.AvgPool2d(8)
    for extractor in (timm_features("test_resnet", random_seed=0), shrunk, lambda x: x[..., ::8, ::8]):
        real, other, wrong = (features(extractor, x) for x in (train, held_out, noise))
        assert abs(kernel(real, other).value) < 0.1 * kernel(real, wrong).value
        assert frechet(real, other).value < 0.5 * frechet(real, wrong).value
        subsets = kernel_subsets(real, wrong, size=48, count=10)
        assert subsets.low < kernel(real, wrong).value < subsets.high
        near, far = neighbours(real, other), neighbours(real, wrong)
        assert near.precision.value > max(0.5, 2 * far.precision.value)
        assert near.recall.value > max(0.5, far.recall.value)


def test_features_of_a_file_decide_the_figure(tmp_path: Path) -> None:
    """The same pictures in another network are at another distance: figures compare within one set of weights."""
    x, y = torch.rand(2, 16, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = [
        kernel(features(extractor, x), features(extractor, y - 0.3)).value
        for extractor in (timm_features("test_resnet", random_seed=seed) for seed in (0, 0, 1))
    ]
    assert found[0] == found[1] != found[2]
