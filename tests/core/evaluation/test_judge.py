"""One loop trains every judge: it learns, repeats itself, and leaves torch's generator alone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.evaluation.judge import contrastive_loss, train_judge, train_within
from core.progress import Part, Progress

X = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
LABELS = (X[:, 0] > 0).long()


def losses(judge: nn.Linear) -> Iterator[Tensor]:
    for _ in range(100):
        rows = torch.randperm(256)[:32]
        yield F.cross_entropy(judge(X[rows]), LABELS[rows])


@pytest.mark.parametrize("cycle", [None, 100])
def test_a_judge_learns_and_is_a_function_of_its_seed(cycle: int | None) -> None:
    before = torch.get_rng_state()
    judge, again, other = (train_judge(lambda: nn.Linear(4, 2), losses, 0.1, cycle, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert float((judge(X).argmax(-1) == LABELS).float().mean()) > 0.95
    assert torch.equal(judge.weight, again.weight) and not torch.equal(judge.weight, other.weight)
    assert not judge.training and not judge.weight.requires_grad


def test_pairs_are_distinguished_and_equal_captions_are_no_rivals() -> None:
    points, heat = torch.eye(4), torch.tensor(3.0)
    apart = contrastive_loss(points, points, list("abcd"), heat)
    assert float(apart) == pytest.approx(0, abs=1e-6)
    assert float(contrastive_loss(points, points.roll(1, 0), list("abcd"), heat)) > 10
    twice = torch.stack([points[0], points[0], points[2], points[3]])
    same, other = (contrastive_loss(twice, twice, list(captions), heat) for captions in ("aacd", "abcd"))
    assert float(same) < 0.01 and float(other) > 0.3


def test_a_judge_of_a_time_learns_and_ends_in_it() -> None:
    def loss(judge: nn.Linear, rows: Tensor) -> Tensor:
        return F.cross_entropy(judge(X[rows]), LABELS[rows])

    parts, before = list[Part](), torch.get_rng_state()
    began = time.monotonic()
    judge = train_within(lambda: nn.Linear(4, 2), loss, 256, 0.5, 10**9, 0.1, progress=Progress(show=parts.append))
    assert 0.4 < time.monotonic() - began < 10
    assert torch.equal(torch.get_rng_state(), before)
    assert float((judge(X).argmax(-1) == LABELS).float().mean()) > 0.95
    assert parts[-1].ended and parts[-1].done == parts[-1].total
    one, again, other = (train_within(lambda: nn.Linear(4, 2), loss, 256, 60.0, 30, 0.1, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.weight, again.weight) and not torch.equal(one.weight, other.weight)
    assert not judge.training and not judge.weight.requires_grad
