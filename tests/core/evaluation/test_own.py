"""The evaluator of one's own data, on points in a plane: what it measures, what it says, and what it asks for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.evaluation import names
from core.evaluation.advice import advice
from core.evaluation.backbone import Backbone, perceptron
from core.evaluation.interval import ConfidenceInterval
from core.evaluation.options import EvaluationOptions, HasConditions
from core.evaluation.own import OwnEvaluation, evaluator
from core.progress import Part, Progress, StoppedError

CENTRES = 3 * torch.randn(6, 8, generator=torch.Generator().manual_seed(9))
COLOURS = ("red", "green", "blue", "grey", "pink", "gold")


def spread(views: Tensor) -> Tensor:
    return views + 0.5 * torch.randn_like(views)


def as_numbers(batch: Mapping[str, Any]) -> Tensor:
    """The x of a batch as it is."""
    found: Tensor = batch["x"].to(torch.float32)
    return found


BACKBONE = Backbone(as_numbers, perceptron, distort=spread, details=lambda views: views.diff(dim=1).abs().mean(1, True))


@dataclass(frozen=True)
class Points:
    """Points around six centres, with whatever is asked for beside them."""

    count: int
    seed: int
    named: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.seed)
        labels = torch.randint(6, (self.count,), generator=generator)
        x = CENTRES[labels] + torch.randn(self.count, 8, generator=generator)
        rows = torch.tensor(indices)
        texts = [f"a {COLOURS[labels[row]]} thing, number {self.seed} {row % 60}" for row in indices]
        found = {"x": x[rows], "label": labels[rows], "caption": texts}
        return {name: found[name] for name in ("x", *self.named)}


def prepared(named: tuple[str, ...], seconds: float = 4.0, progress: Progress = Progress()) -> OwnEvaluation:
    parts = Points(1500, 1, named), Points(400, 2, named)
    found = evaluator(lambda: parts, BACKBONE)(EvaluationOptions(seconds, progress))
    assert isinstance(found, OwnEvaluation) and isinstance(found, HasConditions)
    return found


def drawn(count: int, seed: int, named: tuple[str, ...]) -> tuple[Tensor, Mapping[str, Any]]:
    batch = Points(count, seed, named).get(range(count))
    return batch["x"], {name: value for name, value in batch.items() if name != "x"}


def value(figures: Mapping[str, object], name: str) -> float:
    found = figures[name]
    return found.value if isinstance(found, ConfidenceInterval) else float(str(found))


@pytest.fixture(scope="module")
def of_classes() -> OwnEvaluation:
    return prepared(("label",))


def test_samples_of_the_same_law_are_as_real_data(of_classes: OwnEvaluation) -> None:
    figures = of_classes(*drawn(600, 3, ("label",)))
    distance = figures[names.FRECHET]
    assert isinstance(distance, ConfidenceInterval) and distance.low < 0.01
    assert value(figures, names.FRECHET_RAW) < 1.5 * value(figures, names.FRECHET_RAW + names.REAL)
    assert value(figures, names.AS_ASKED) == pytest.approx(value(figures, names.AS_ASKED + names.REAL), abs=0.05)
    assert value(figures, names.AS_ASKED) > 0.9
    assert value(figures, names.MEMORISED) < 0.12
    assert {name + names.REAL for name in (names.RECALL, names.COVERAGE, names.NEAREST)} <= figures.keys()
    assert "nothing is left" in advice(figures)[0]


def test_faults_are_measured_and_named(of_classes: OwnEvaluation) -> None:
    x, asked = drawn(600, 3, ("label",))
    copies = Points(1500, 1, ("label",)).get(range(600))
    assert "Memorising: 100%" in advice(of_classes(copies["x"], {"label": copies["label"]}))[0]
    assert value(of_classes(x.roll(1, 0), asked), names.AS_ASKED) < 0.4
    far = of_classes(x + 4, asked)
    assert value(far, names.FRECHET) > 0.5 and any("Not there yet" in sentence for sentence in advice(far))
    one = x[asked["label"] == 2]
    narrow = of_classes(one, {"label": torch.full((len(one),), 2)})
    assert value(narrow, names.RECALL) < 0.4 * value(narrow, names.RECALL + names.REAL)
    assert any("Little variety" in sentence for sentence in advice(narrow))


def test_captions_are_found_again_seen_ones_and_new_ones_apart() -> None:
    found = prepared(("caption",))
    asked = found.conditions(0, range(200))
    new = [caption not in found.known for caption in asked["caption"]]
    assert new == [number % 2 == 0 for number in range(200)]
    colours = torch.tensor([COLOURS.index(caption.split()[1]) for caption in asked["caption"]])
    x = CENTRES[colours] + torch.randn(200, 8, generator=torch.Generator().manual_seed(4))
    figures, mixed = found(x, asked), found(x.roll(2, 0), asked)
    assert figures[names.NEW_CAPTION + names.CHANCE] == 3 / 32
    for name in (names.SEEN_CAPTION, names.NEW_CAPTION):
        assert value(figures, name) > value(mixed, name) + 0.1
        assert value(figures, name) == pytest.approx(value(figures, name + names.REAL), abs=0.25)
    assert names.AS_ASKED not in figures


def test_data_with_neither_have_features_of_their_own() -> None:
    found = prepared(())
    assert found.conditions(0, range(3)) == {}
    x, _ = drawn(600, 3, ())
    assert value(found(x, {}), names.FRECHET) < 0.03 < 0.3 < value(found(x + 3, {}), names.FRECHET)


def test_the_time_is_kept_and_progress_seen_and_a_stop_is_prompt() -> None:
    parts, began = list[Part](), time.monotonic()
    prepared(("label", "caption"), 2.0, Progress(show=parts.append))
    assert time.monotonic() - began < 20
    shown = {part.name for part in parts}
    assert {"reading training examples", "training a classifier of the data"} <= shown
    assert {"reading held-out examples", "training a matcher of examples and captions"} <= shown
    with pytest.raises(StoppedError):
        prepared(("label",), 60.0, Progress(deadline=time.monotonic() + 0.5))
    assert time.monotonic() - began < 40


def test_the_loss_is_measured_on_both_parts(of_classes: OwnEvaluation) -> None:
    def loss(batch: Mapping[str, Any], numbers: Sequence[int]) -> Tensor:
        assert len(batch["x"]) == len(numbers)
        return batch["x"].abs().mean(1)

    parts = Points(300, 1), Points(100, 2)
    figures = evaluator(lambda: parts, BACKBONE)(EvaluationOptions(1.0, loss=loss))(*drawn(100, 3, ()))
    expected = float(parts[1].get(range(100))["x"].abs().mean())
    assert value(figures, names.LOSS) == pytest.approx(expected, rel=1e-5)
    assert names.TRAINING_LOSS in figures and names.LOSS not in of_classes(*drawn(100, 3, ("label",)))


def test_a_domain_that_reads_no_network_refuses_one() -> None:
    with pytest.raises(ValueError, match="leave --features out"):
        evaluator(lambda: (Points(30, 1), Points(30, 2)), BACKBONE)(EvaluationOptions(features=Path("clip")))


def test_few_samples_and_few_examples_are_measured_as_far_as_they_go() -> None:
    parts = Points(30, 1), Points(6, 2)
    figures = evaluator(lambda: parts, BACKBONE)(EvaluationOptions(0.5))(*drawn(3, 3, ()))
    assert figures[names.SAMPLES] == 3 and names.FRECHET not in figures and names.MEMORISED not in figures
