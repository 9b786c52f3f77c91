"""Data in an order that is a function of the position: any start, any cut, any number of workers."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from toy.recipes.points import Points

from core.data.dataset import Batch, check
from core.data.order import BatchSharding, OrderedDataset, stream
from core.random import Stream, TrainingRNG


def shift(batch: Batch, rng: TrainingRNG) -> Batch:
    """An augmentation that says which draw it used."""
    return {**batch, "x": batch["x"] + rng.normal(batch["x"], Stream.AUGMENT)}


def test_an_epoch_visits_every_example_once_in_an_order_of_its_own() -> None:
    data = OrderedDataset(Points(50), seed=3)
    first, second = data.indices(range(50)), data.indices(range(50, 100))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert data.indices(range(45, 55)) == first[45:] + second[:5]
    assert OrderedDataset(Points(50), seed=4).indices(range(50)) != first


@pytest.mark.parametrize(("ranks", "parts"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 2)])
def test_shares_are_the_batch_whoever_takes_them(ranks: int, parts: int) -> None:
    for step in (0, 7):
        taken = [
            p for rank in range(ranks) for part in BatchSharding(8, ranks, rank, parts).positions(step) for p in part
        ]
        assert taken == list(range(step * 8, step * 8 + 8))


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide over 3 processes"):
        BatchSharding(8, 3)
    with pytest.raises(ValueError, match="at least 1"):
        BatchSharding(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_starts_anywhere(workers: int) -> None:
    data, shares = OrderedDataset(Points(50), 0, shift), BatchSharding(8, parts=2)
    whole = list(islice(stream(data, shares, 0), 9))
    for step, parts in enumerate(islice(stream(data, shares, 5, workers), 4), start=5):
        for mine, theirs in zip(parts, whole[step], strict=True):
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_augmentation_is_keyed_by_position() -> None:
    data = OrderedDataset(Points(50), 0, shift)
    assert torch.equal(data[range(10, 20)]["x"][3:5], data[range(13, 15)]["x"])
    again = data.indices(range(100)).index(data.indices([0])[0], 1)
    assert not torch.equal(data[[again]]["x"], data[[0]]["x"])


def test_broken_data_are_named() -> None:
    data = OrderedDataset(Points(50, broken=True), 0)
    with pytest.raises(ValueError, match="'x' of example 7 of the data contains NaN"):
        for step in range(7):
            data[range(step * 8, step * 8 + 8)]
    with pytest.raises(ValueError, match="empty"):
        OrderedDataset(Points(0), 0)
    with pytest.raises(ValueError, match="under 'x'"):
        check({"y": torch.zeros(1)}, [0])
    huge = {"x": torch.full((2, 4), 3e38)}
    assert check(huge, [0, 1]) is huge
