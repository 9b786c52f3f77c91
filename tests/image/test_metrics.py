"""The judge reads digits that it has not seen, and training it leaves no trace."""

from __future__ import annotations

import torch

from image.data import digits
from image.metrics import accuracy, train_classifier


def test_judge_reads_held_out_digits() -> None:
    train, held_out = digits()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    classifier = train_classifier(train.images, train.labels, epochs=12)
    assert torch.equal(torch.rand(1), expected)
    assert accuracy(classifier, held_out.images, held_out.labels) > 0.95
    assert accuracy(classifier, held_out.images.flip(-1), held_out.labels) < 0.7
