"""Memorisation: copies are counted, new samples are not, however blurred."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.evaluation.memorised import TAIL, Nearness, Originals, points


def draw(count: int, seed: int) -> Tensor:
    """Points near a plane in ten dimensions."""
    generator = torch.Generator().manual_seed(seed)
    plane = torch.randn(3, 10, generator=torch.Generator().manual_seed(99))
    return (
        torch.randn(count, 3, generator=generator) @ plane + 0.3 * torch.randn(count, 10, generator=generator)
    ).float()


def nearness(samples: Tensor, train: Tensor, held_out: Tensor) -> Nearness:
    return Originals(train, held_out).nearness(samples)


TRAIN, HELD_OUT = draw(1000, 0), draw(300, 1)


def test_the_share_of_copies_is_found() -> None:
    near_copies = TRAIN[:200] + 0.01 * torch.randn(200, 10)
    found = nearness(torch.cat([near_copies, draw(200, 2)]), TRAIN, HELD_OUT).memorised
    assert found.value == pytest.approx(0.5 + TAIL / 2, abs=0.03)
    assert found.low < 0.525 < found.high


def test_new_samples_are_no_copies() -> None:
    """In 60 cases the interval holds what real examples have, as often as it claims and more."""
    found = [nearness(draw(200, 2 * s + 5), draw(500, 2 * s + 6), draw(150, s + 500)).memorised for s in range(60)]
    assert sum(each.low <= TAIL <= each.high for each in found) >= 54
    assert sum(each.value for each in found) / 60 == pytest.approx(TAIL, abs=0.015)


def test_samples_without_detail_are_nearer_to_training_examples_and_no_copies() -> None:
    blurred = draw(400, 3) * 0.5
    found = nearness(blurred, TRAIN, HELD_OUT)
    assert found.distance.high < found.distance_real.low
    assert found.memorised.low < 2 * TAIL


def test_few_held_out_examples_are_refused_and_long_views_projected() -> None:
    with pytest.raises(ValueError, match="20 held-out"):
        nearness(TRAIN, TRAIN, HELD_OUT[:19])
    views = torch.randn(20, 3, 40, 40, generator=torch.Generator().manual_seed(0)).half()
    exact, projected = views.flatten(1).float(), points(views)
    assert projected.shape == (20, 512)
    ratio = torch.pdist(projected) / torch.pdist(exact)
    assert float(ratio.min()) > 0.85 and float(ratio.max()) < 1.15
    assert torch.equal(points(views[:, :, :2, :2]), views[:, :, :2, :2].flatten(1).float())
