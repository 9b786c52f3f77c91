"""What a picture's numbers become, by hand, and what they leave alone."""

from __future__ import annotations

import math

import pytest
import torch

from core.nn.text import TextEncoder
from core.text.words import Words
from image.condition.micro import NUMBER_COUNT, SCORED_NUMBER_COUNT, MicroConditioning

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
    with_numbers, of_text = MicroConditioning(words, (32, 48), WIDTH)(batch), words(batch)
    assert with_numbers.vector is not None and of_text.vector is not None and with_numbers.tokens is not None
    assert with_numbers.vector.shape == (2, 10 + NUMBER_COUNT * WIDTH) and torch.equal(
        with_numbers.vector[:, :10], of_text.vector
    )
    expected = torch.tensor([waves(20, 30, 0, 7, 64, 96), waves(640, 480, 3, 0, 64, 96)])
    torch.testing.assert_close(with_numbers.vector[:, 10:], expected, rtol=0, atol=1e-4)
    assert (
        of_text.tokens is not None
        and torch.equal(with_numbers.tokens, of_text.tokens)
        and with_numbers.mask is not None
    )


def test_missing_numbers_take_defaults(words: Words) -> None:
    with_numbers, nothing = (
        MicroConditioning(words, (32, 48), WIDTH)({"caption": ["a cat"]}),
        MicroConditioning(words, (32, 48), WIDTH).null(3),
    )
    assert with_numbers.vector is not None and nothing.vector is not None
    expected = torch.tensor(waves(32, 48, 0, 0, 32, 48))
    torch.testing.assert_close(with_numbers.vector[0, 10:], expected, rtol=0, atol=1e-4)
    assert nothing.vector.shape == (3, 10 + NUMBER_COUNT * WIDTH)
    assert torch.equal(nothing.vector[1, 10:], with_numbers.vector[0, 10:])


def test_a_refiner_takes_a_score_for_the_target(words: Words) -> None:
    framed = MicroConditioning(words, (32, 48), WIDTH, score=6.0)
    with_numbers = framed({"caption": ["a cat"] * 2, "score": torch.tensor([4.5, 7.0]), "target": (8, 8)}).vector
    usual = framed.null(1).vector
    assert with_numbers is not None and usual is not None
    assert with_numbers.shape == (2, 10 + SCORED_NUMBER_COUNT * WIDTH)
    expected = torch.tensor([waves(32, 48, 0, 0, 4.5), waves(32, 48, 0, 0, 7.0)])
    torch.testing.assert_close(with_numbers[:, 10:], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(usual[0, 10:], torch.tensor(waves(32, 48, 0, 0, 6.0)), rtol=0, atol=1e-4)


def test_numbers_must_be_as_many_as_the_samples(words: Words) -> None:
    with pytest.raises(ValueError, match="'crop' must be two numbers for each of 1 samples"):
        MicroConditioning(words, (32, 48), WIDTH)({"caption": ["a cat"], "crop": torch.zeros(3, 2)})
