"""Advice in words follows from figures, and intervals that overlap give none."""

from __future__ import annotations

import pytest

from core.evaluation.advice import advice
from core.evaluation.interval import ConfidenceInterval
from core.evaluation.names import (
    AS_ASKED,
    CHANCE,
    COVERAGE,
    DETAIL,
    FRECHET,
    FRECHET_RAW,
    LOSS,
    MEMORISED,
    NEW_CAPTION,
    PRECISION,
    REAL,
    RECALL,
    SAMPLES,
    SEEN_CAPTION,
    TRAINING_LOSS,
)


def near(value: float, reach: float = 0.02) -> ConfidenceInterval:
    return ConfidenceInterval(value, value - reach, value + reach)


GOOD: dict[str, object] = {
    SAMPLES: 1000,
    FRECHET: near(0.01),
    FRECHET + REAL: near(0.0),
    FRECHET_RAW: 0.11,
    FRECHET_RAW + REAL: 0.1,
    DETAIL: near(0.01),
    DETAIL + REAL: near(0.01),
    PRECISION: near(0.83),
    PRECISION + REAL: near(0.85),
    RECALL: near(0.83),
    RECALL + REAL: near(0.85),
    COVERAGE: near(0.92),
    COVERAGE + REAL: near(0.95),
    AS_ASKED: near(0.9),
    AS_ASKED + REAL: near(0.92),
    MEMORISED: near(0.06),
    MEMORISED + REAL: 0.05,
    LOSS: near(0.2),
    TRAINING_LOSS: near(0.2),
    SEEN_CAPTION: near(0.9),
    SEEN_CAPTION + REAL: near(0.95),
    NEW_CAPTION: near(0.4),
    NEW_CAPTION + REAL: near(0.5),
    NEW_CAPTION + CHANCE: 3 / 32,
}
FAR: dict[str, object] = {FRECHET: near(0.5), FRECHET_RAW: 0.6}


def test_good_figures_ask_for_nothing() -> None:
    assert len(advice(GOOD)) == 1 and "nothing is left" in advice(GOOD)[0]
    assert "nothing is left" in advice({SAMPLES: 1000})[0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({MEMORISED: near(0.4)}, "Memorising: 40%"),
        ({LOSS: near(0.3)}, "Overfitting: the loss of held-out examples is 50% above"),
        ({RECALL: near(0.3)}, "Little variety: the recall of the samples is"),
        (FAR, "more time"),
        ({PRECISION: near(0.3)}, "more time"),
        ({DETAIL: near(0.3)}, "blurred or noisy"),
        ({AS_ASKED: near(0.5)}, "50% of the samples are read as the class"),
        ({SEEN_CAPTION: near(0.4)}, "Captions seen in training are found again in 40%"),
        ({NEW_CAPTION: near(0.1)}, "more captioned data"),
        ({NEW_CAPTION + REAL: near(0.12)}, "give --features a folder of CLIP"),
        ({SAMPLES: 64}, "--count 1000"),
        ({AS_ASKED: near(0.87)}, f"but not in: {AS_ASKED}. More time"),
    ],
)
def test_each_fault_is_named_alone(changed: dict[str, object], words: str) -> None:
    found = advice(GOOD | changed)
    assert len(found) == 1 and words in found[0], found


def test_chance_gives_no_advice() -> None:
    """Values that are off by less than their intervals."""
    noisy: dict[str, object] = {
        MEMORISED: near(0.2, 0.15),
        LOSS: near(0.3, 0.1),
        FRECHET: near(0.5, 0.6),
        RECALL: near(0.6, 0.3),
        AS_ASKED: near(0.5, 0.4),
        PRECISION: near(0.6, 0.3),
    }
    assert "nothing is left" in advice(GOOD | noisy)[0]


def test_used_up_data_are_not_given_more_time() -> None:
    found = advice(GOOD | FAR | {LOSS: near(0.3)})
    assert any("more data is what helps" in sentence for sentence in found)
    assert not any("more time (" in sentence for sentence in found)
    assert not any(
        "Little variety" in sentence for sentence in advice(GOOD | {RECALL: near(0.3), PRECISION: near(0.3)})
    )
