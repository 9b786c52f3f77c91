"""Conditioners: labels become rows, the null is a row of its own, and several conditioners act as one."""

from __future__ import annotations

import pytest
import torch

from core.cond import Cond
from core.condition import Batch, ClassLabel, CombinedConditioner, Conditioner, Valid, join


def test_labels_are_rows_and_null_is_the_last_row() -> None:
    labels = ClassLabel(3, 5)
    cond = labels({"label": [2, 0, 3]})
    assert cond.vector is not None and torch.equal(cond.vector, labels.table.weight[[2, 0, 3]])
    null = labels.null(2).vector
    assert null is not None and torch.equal(null, labels.table.weight[[3, 3]])


def test_the_null_learns() -> None:
    labels = ClassLabel(3, 5)
    kept = labels({"label": [0, 1]}).where(torch.tensor([True, False]), labels.null(2)).vector
    assert kept is not None
    kept.sum().backward()
    assert labels.table.weight.grad is not None
    assert labels.table.weight.grad.sum(1).tolist() == [5, 0, 0, 5]


@pytest.mark.parametrize("label", [[4], [-1], [0.5], [[1]]])
def test_bad_labels_are_refused(label: object) -> None:
    with pytest.raises(ValueError, match="labels must"):
        ClassLabel(3, 5)({"label": label})


def test_missing_conditions_are_named() -> None:
    with pytest.raises(ValueError, match="give a label"):
        ClassLabel(3, 5)({})
    with pytest.raises(ValueError, match="give 'valid'"):
        Valid()({})


def test_together_joins_vectors_and_keeps_valid_under_the_null() -> None:
    first, second = ClassLabel(2, 3), ClassLabel(2, 4)
    both = CombinedConditioner([first, second, Valid()])
    batch = {"label": [1, 0], "valid": [[True, False], [True, True]]}
    cond, null = both(batch), both.null(2)
    assert cond.vector is not None and cond.valid is not None
    assert torch.equal(cond.vector, torch.cat([first.table.weight[[1, 0]], second.table.weight[[1, 0]]], 1))
    dropped = cond.where(torch.tensor([False, False]), null)
    assert dropped.vector is not None and null.vector is not None and torch.equal(dropped.vector, null.vector)
    assert dropped.valid is not None and torch.equal(dropped.valid, cond.valid)


class Words(Conditioner):
    """Tokens of a given length, masked or not."""

    def __init__(self, length: int, masked: bool) -> None:
        super().__init__()
        self.length, self.masked = length, masked

    def forward(self, batch: Batch) -> Cond:
        tokens = torch.full((2, self.length, 3), float(self.length))
        return Cond(tokens=tokens, mask=torch.zeros(2, self.length, dtype=torch.bool) if self.masked else None)


def test_tokens_without_a_mask_are_real_among_masked_ones() -> None:
    cond = CombinedConditioner([Words(2, masked=False), Words(3, masked=True)])({})
    assert cond.tokens is not None and cond.tokens[0, :, 0].tolist() == [2, 2, 3, 3, 3]
    assert cond.mask is not None and cond.mask[0].tolist() == [True, True, False, False, False]


def test_a_slot_that_holds_one_thing_refuses_two() -> None:
    one = Cond(valid=torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="'valid'"):
        join([one, one])
