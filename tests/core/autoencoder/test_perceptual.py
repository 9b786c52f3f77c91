"""Perceptual distance against values computed by hand and against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.autoencoder.perceptual import Perceptual


class TwoLayers(nn.Module):
    """Two maps of different sizes, with a norm that would change while training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.norm(self.first(x)).relu() + 0.1
        return [first, self.second(first)]


def test_by_hand() -> None:
    """One place with the features (3, 4) and (1, 0): (0.6, 0.8) against (1, 0) is 0.16 and 0.64 apart."""
    x, y = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert float(Perceptual(lambda image: [image])(x, y)) == pytest.approx((0.16 + 0.64) / 2)
    assert float(Perceptual(lambda image: [image], [torch.tensor([1.0, 2.0])])(x, y)) == pytest.approx(0.16 + 1.28)
    assert float(Perceptual(lambda image: [image, image])(x, y)) == pytest.approx(0.8)
    # Half of the places differ, and the length of a feature does not count.
    wide, other = torch.cat([x, y], dim=-1), torch.cat([y, 7 * y], dim=-1)
    assert float(Perceptual(lambda image: [image])(wide, other)) == pytest.approx(0.2)


def test_it_is_its_definition() -> None:
    torch.manual_seed(0)
    net = TwoLayers().eval()
    weights = [torch.rand(4), torch.rand(6)]
    x, y = torch.randn(3, 3, 9, 9), torch.randn(3, 3, 9, 9)
    expected = torch.zeros(3)
    for f, g, w in zip(net(x), net(y), weights):
        apart = f / f.norm(dim=1, keepdim=True) - g / g.norm(dim=1, keepdim=True)
        expected += (w.view(1, -1, 1, 1) * apart**2).sum(1).mean((1, 2)).detach()
    torch.testing.assert_close(Perceptual(net, weights)(x, y), expected)


def test_equal_pictures_are_at_distance_zero_and_others_are_not() -> None:
    torch.manual_seed(0)
    distance, x, y = Perceptual(TwoLayers()), torch.randn(3, 3, 9, 9), torch.randn(3, 3, 9, 9)
    assert not bool(distance(x, x).any())
    torch.testing.assert_close(distance(x, y), distance(y, x))
    assert bool((distance(x, y) > 10 * distance(x, x + 0.05 * y)).all())


def test_it_teaches_pictures_and_never_its_network() -> None:
    torch.manual_seed(0)
    net = TwoLayers()
    distance = Perceptual(net).train()
    x = torch.randn(2, 3, 9, 9, requires_grad=True)
    distance(x, torch.randn(2, 3, 9, 9)).sum().backward()
    assert x.grad is not None and bool(x.grad.ne(0).any()) and not net.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in net.parameters())
    blank = torch.zeros(1, 3, 9, 9, requires_grad=True)
    Perceptual(lambda image: [image])(blank, torch.ones(1, 3, 9, 9)).sum().backward()
    assert blank.grad is not None and bool(blank.grad.isfinite().all())  # features of length 0 have no direction
