"""Intervals hold the truth as often as they say, whatever the figure."""

from __future__ import annotations

import math

import pytest
import torch

from core.evaluation.interval import ConfidenceInterval, average, share, without_groups


def draws(seed: int, count: int = 60) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_mean_has_its_own_error_and_left_out_groups_find_the_same() -> None:
    values = draws(0, 400) * 3 + 7
    found = average(values)
    assert found.value == pytest.approx(float(values.mean()))
    assert found.high - found.low == pytest.approx(2 * 1.96 * float(values.std()) / 20)
    left = without_groups(lambda rows: rows[0] @ values / rows[0].sum(1), (400,), 400)
    assert (left.low, left.value, left.high) == pytest.approx((found.low, found.value, found.high))
    with pytest.raises(ValueError, match="two values or more"):
        average(values[:1])


def test_of_many_intervals_as_many_hold_the_truth_as_they_say() -> None:
    means = [average(draws(seed)) for seed in range(400)]
    sums = [
        without_groups(lambda rows, x=draws(s): (rows[0] @ x / rows[0].sum(1)).exp(), (60,), 20) for s in range(400)
    ]
    for truth, found in ((0.0, means), (1.0, sums)):
        assert 0.91 <= sum(each.low <= truth <= each.high for each in found) / 400 <= 0.985


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.98])
def test_intervals_of_shares_hold_near_the_ends_too(truth: float) -> None:
    generator = torch.Generator().manual_seed(0)
    found = [share((torch.rand(50, generator=generator) < truth).tolist()) for _ in range(1000)]
    assert sum(each.low <= truth <= each.high for each in found) / 1000 >= 0.92
    assert all(0 <= each.low <= each.value <= each.high <= 1 for each in found)
    assert share([True] * 50).low < 0.97


def test_what_was_not_asked_for_is_not_there() -> None:
    plain = without_groups(lambda rows: rows[0].sum(1), (5,), 0)
    assert plain.value == 5 and math.isnan(plain.low) and math.isnan(plain.high)
    for groups in (-1, 1):
        with pytest.raises(ValueError, match="at least 2 groups"):
            without_groups(lambda rows: rows[0].sum(1), (5,), groups)
    assert str(ConfidenceInterval(15.7, 14.25, 17.123)) == "15.7 [14.25, 17.12]"
