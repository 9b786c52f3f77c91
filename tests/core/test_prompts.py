"""Prompts of classes: names, numbers, several in turn, and what they cannot mean."""

from __future__ import annotations

import pytest

from core.prompts import Classes

CLOTHES = Classes.of(["T-shirt/top", "Sneaker", "Bag", "Hat, red", "7"])


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("sneaker", [1, 1, 1]),
        ("Sneaker, bag", [1, 2, 1]),
        ("bag;t-shirt/top", [2, 0, 2]),
        ("0, bag", [0, 2, 0]),
        ("Hat, red", [3, 3, 3]),
        ("7", [4, 4, 4]),
        ("2", [2, 2, 2]),
    ],
)
def test_classes_are_asked_for_by_name_or_number(text: str, labels: list[int]) -> None:
    found = CLOTHES.parse(text, 3)
    assert found["label"].tolist() == labels
    assert found["class_name"] == [CLOTHES.names[label] for label in labels]


def test_capitals_tell_apart_only_where_they_must() -> None:
    both = Classes.of(["cat", "Cat"])
    assert both.parse("Cat, cat, CAT", 3)["label"].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sneakers", "'sneakers' is no class of this model: did you mean 'Sneaker'?"),
        ("xyz", "'xyz' is no class of this model: they are T-shirt/top, Sneaker"),
        ("9", "one of 0 to 4"),
        ("bag,", "is no class"),
        ("", "is no class"),
    ],
)
def test_what_is_no_class_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        CLOTHES.parse(text, 3)


def test_models_that_know_a_count_alone_take_numbers() -> None:
    assert Classes(3).parse("0,2", 3).keys() == {"label"}
    assert Classes(3).parse("0,2", 3)["label"].tolist() == [0, 2, 0]
    assert Classes(3).default(0, [3, 4])["label"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="one of 0 to 2"):
        Classes(3).parse("cat", 1)
    with pytest.raises(ValueError, match="names"):
        Classes(3, ["a"])
