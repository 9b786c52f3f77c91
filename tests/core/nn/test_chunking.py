"""Tokens in pieces are the same tokens, in their order; with gradients they stay together."""

import torch
from torch import Tensor

from core.nn.chunking import chunked


def test_pieces_are_the_whole() -> None:
    torch.manual_seed(0)
    a, b, widths = torch.randn(2, 7, 3, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64), []

    def think(x: Tensor, y: Tensor) -> Tensor:
        widths.append(x.shape[1])
        return x.sin() - 2 * y

    with torch.no_grad():
        assert torch.equal(chunked(think, 3, a, b), a.sin() - 2 * b)
        assert torch.equal(chunked(think, 7, a, b), a.sin() - 2 * b)
    assert torch.equal(chunked(think, 3, a, b), a.sin() - 2 * b)
    assert widths == [3, 3, 1, 7, 7]
