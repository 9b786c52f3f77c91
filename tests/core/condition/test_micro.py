"""What a picture's numbers become, by hand, and what they leave alone."""

from __future__ import annotations

import math

import pytest
import torch

from core.condition.micro import NUMBER_COUNT, SCORED_NUMBER_COUNT, MicroConditioning
from core.condition.words import Words
from core.nn.text import TextEncoder

WIDTH = 6


@pytest.fixture(scope="module")
def words() -> Words:
    torch.manual_seed(0)
    return Words(TextEncoder(16, 1, 2, 8), vector=10)


def waves(*numbers: float) -> list[float]:
    """Cosines, then sines, of each number at frequencies 10000^(-i / 3)."""
    angles = [[number * 10_000 ** (-i / 3) for i in range(3)] for number in numbers]
    return [value for row in angles for value in (*map(math.cos, row), *map(math.sin, row))]


def test_numbers_follow_the_text(words: Words) -> None:
    batch = {
        "caption": ["a cat", "a dog"],
        "size": torch.tensor([[20.0, 30.0], [640.0, 480.0]]),
        "crop": torch.tensor([[0.0, 7.0], [3.0, 0.0]]),
        "target": (64, 96),
    }
    told, said = MicroConditioning(words, (32, 48), WIDTH)(batch), words(batch)
    assert told.vector is not None and said.vector is not None and told.tokens is not None
    assert told.vector.shape == (2, 10 + NUMBER_COUNT * WIDTH) and torch.equal(told.vector[:, :10], said.vector)
    expected = torch.tensor([waves(20, 30, 0, 7, 64, 96), waves(640, 480, 3, 0, 64, 96)])
    torch.testing.assert_close(told.vector[:, 10:], expected, rtol=0, atol=1e-4)
    assert said.tokens is not None and torch.equal(told.tokens, said.tokens) and told.mask is not None


def test_what_is_not_said_is_usual(words: Words) -> None:
    told, nothing = (
        MicroConditioning(words, (32, 48), WIDTH)({"caption": ["a cat"]}),
        MicroConditioning(words, (32, 48), WIDTH).null(3),
    )
    assert told.vector is not None and nothing.vector is not None
    expected = torch.tensor(waves(32, 48, 0, 0, 32, 48))
    torch.testing.assert_close(told.vector[0, 10:], expected, rtol=0, atol=1e-4)
    assert nothing.vector.shape == (3, 10 + NUMBER_COUNT * WIDTH)
    assert torch.equal(nothing.vector[1, 10:], told.vector[0, 10:])


def test_a_refiner_hears_a_score_for_the_target(words: Words) -> None:
    framed = MicroConditioning(words, (32, 48), WIDTH, score=6.0)
    told = framed({"caption": ["a cat"] * 2, "score": torch.tensor([4.5, 7.0]), "target": (8, 8)}).vector
    usual = framed.null(1).vector
    assert told is not None and usual is not None
    assert told.shape == (2, 10 + SCORED_NUMBER_COUNT * WIDTH)
    expected = torch.tensor([waves(32, 48, 0, 0, 4.5), waves(32, 48, 0, 0, 7.0)])
    torch.testing.assert_close(told[:, 10:], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(usual[0, 10:], torch.tensor(waves(32, 48, 0, 0, 6.0)), rtol=0, atol=1e-4)


def test_numbers_must_be_as_many_as_the_samples(words: Words) -> None:
    with pytest.raises(ValueError, match="'crop' must be two numbers for each of 1 samples"):
        MicroConditioning(words, (32, 48), WIDTH)({"caption": ["a cat"], "crop": torch.zeros(3, 2)})
