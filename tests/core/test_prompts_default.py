"""The default of prompts can be another's, where that has all that a model is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from core.prompts import Captions, Classes, Unconditional, WithDefault


def chosen(seed: int, samples: Sequence[int]) -> dict[str, Any]:
    return {"label": torch.tensor([2] * len(samples)), "caption": ["seen"] * len(samples), "size": 3}


def test_another_default_is_taken_as_far_as_it_is_read() -> None:
    classes = WithDefault(Classes(3, ("a", "b", "c")), chosen)
    assert classes.default(0, range(2)).keys() == {"label"} and classes.default(0, range(2))["label"].tolist() == [2, 2]
    assert classes.parse("b", 1)["label"].tolist() == [1]
    assert WithDefault(Unconditional(), chosen).default(0, range(2)) == {}


def test_a_model_that_is_asked_for_more_keeps_its_own() -> None:
    own = {"caption": ["new"], "control": [1]}
    prompts = WithDefault(Captions(lambda seed, samples: own), chosen)
    assert prompts.default(0, [0]) == own
    assert WithDefault(Captions(lambda seed, samples: {"caption": ["new"]}), chosen).default(0, [0]) == {
        "caption": ["seen"]
    }
