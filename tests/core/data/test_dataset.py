"""What a batch holds is the same in every domain, and what is not is refused."""

from __future__ import annotations

import pytest
import torch

from core.data.dataset import check

X = torch.zeros(2, 3, 4)
GOOD = {
    "x": X,
    "valid": torch.ones(2, 3, dtype=torch.bool),
    "label": torch.tensor([1, 2]),
    "number": torch.tensor([[0.5], [2.0]]),
    "caption": ["a", "b"],
    "own": object(),
}


def test_a_batch_of_the_schema_passes_as_it_is() -> None:
    assert check(GOOD, [0, 1]) is GOOD
    assert check({"moments": X}, [0, 1])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"x": None}, "a tensor under 'x'"),
        ({"x": X[:1]}, "'x' of a batch has 1 rows for 2 examples"),
        ({"caption": ["a"]}, "'caption' of a batch has 1 rows"),
        ({"caption": [1, 2]}, "'caption' of a batch must be texts"),
        ({"valid": torch.ones(2, 3)}, r"'valid' of a batch must be \(B, N\) bools"),
        ({"label": torch.ones(2)}, r"'label' of a batch must be \(B,\) whole numbers"),
        ({"number": torch.ones(2)}, r"'number' of a batch must be \(B, K\) floats"),
        ({"x": X * torch.nan}, "'x' of example 7 of the data contains NaN"),
    ],
)
def test_what_is_not_of_the_schema_is_named(wrong: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check({**GOOD, **wrong}, [7, 8])
