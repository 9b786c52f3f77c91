"""Rotary positions: the formula, its invariances, and its precision far from the origin."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.nn.rope import grid_coordinates, rotate, rotations

WIDTHS = (4, 6, 6)


def product(query: Tensor, key: Tensor, here: Tensor, there: Tensor) -> Tensor:
    turned = rotate(query, rotations(here, WIDTHS)), rotate(key, rotations(there, WIDTHS))
    return (turned[0].double() * turned[1].double()).sum(-1)


def test_every_pair_is_a_complex_number_that_turns() -> None:
    places = torch.tensor([[0.0, 3.0, 5.0], [2.0, 0.5, 1.0]])
    x = torch.randn(1, 2, 1, 16)
    expected = torch.empty(2, 16, dtype=torch.float64)
    for n in range(2):
        channel = 0
        for axis, width in enumerate(WIDTHS):
            for i in range(width // 2):
                angle = float(places[n, axis]) * 10_000 ** (-2 * i / width)
                z = complex(float(x[0, n, 0, channel]), float(x[0, n, 0, channel + 1]))
                turned = z * complex(math.cos(angle), math.sin(angle))
                expected[n, channel], expected[n, channel + 1] = turned.real, turned.imag
                channel += 2
    torch.testing.assert_close(rotate(x, rotations(places, WIDTHS))[0, :, 0].double(), expected, rtol=0, atol=1e-6)


def test_products_depend_on_differences_only() -> None:
    query, key = torch.randn(1, 5, 2, 16), torch.randn(1, 5, 2, 16)
    here, there, shift = (
        torch.randint(0, 50, (5, 3)).float(),
        torch.randint(0, 50, (5, 3)).float(),
        torch.tensor([7.0, 11, 3]),
    )
    moved = product(query, key, here + shift, there + shift)
    torch.testing.assert_close(moved, product(query, key, here, there), rtol=0, atol=1e-5)
    assert (product(query, key, here + shift, there) - moved).abs().max() > 0.1


def test_lengths_stay_and_the_origin_turns_nothing() -> None:
    x = torch.randn(2, 6, 3, 16)
    turned = rotate(x, rotations(100 * torch.rand(6, 3), WIDTHS))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotate(x, rotations(torch.zeros(6, 3), WIDTHS)), x)


def test_angles_are_exact_far_away() -> None:
    place = torch.tensor([[4095.0]])
    turns = rotations(place, (64,))[0]
    for i in range(32):
        angle = 4095 * 10_000 ** (-2 * i / 64)
        assert abs(float(turns[i, 0]) - math.cos(angle)) < 1e-7 and abs(float(turns[i, 1]) - math.sin(angle)) < 1e-7


def test_low_precision_is_turned_in_float32() -> None:
    x, turns = torch.randn(1, 4, 2, 16).bfloat16(), rotations(torch.rand(4, 3) * 9, WIDTHS)
    assert torch.equal(rotate(x, turns), rotate(x.float(), turns).bfloat16())


def test_real_arithmetic_of_the_compiler_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, turns = torch.randn(2, 4, 2, 3, 16), rotations(torch.rand(4, 3) * 9, WIDTHS)
    plain = rotate(x, turns)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x, turns), plain, rtol=0, atol=1e-6)


def test_the_gradient_turns_back() -> None:
    x, turns = torch.randn(1, 4, 2, 16, requires_grad=True), rotations(torch.rand(4, 3) * 9, WIDTHS)
    upstream = torch.randn(1, 4, 2, 16)
    (gradient,) = torch.autograd.grad(rotate(x, turns), x, upstream)
    back = torch.stack([turns[..., 0], -turns[..., 1]], dim=-1)
    torch.testing.assert_close(gradient, rotate(upstream, back), rtol=0, atol=1e-6)


def test_a_grid_is_read_row_by_row() -> None:
    expected = torch.tensor([[y, x] for y in range(2) for x in range(3)], dtype=torch.float32)
    assert torch.equal(grid_coordinates((2, 3)), expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 axes"):
        rotations(torch.zeros(3, 2), WIDTHS)
    with pytest.raises(ValueError, match="even"):
        rotations(torch.zeros(3, 2), (4, 3))
