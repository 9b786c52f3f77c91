"""Rotations: every spelling says the same turn, checked by closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from motion.rotation import (
    about_y,
    between,
    euler_to_matrix,
    inverse,
    matrix_to_euler,
    matrix_to_quaternion,
    matrix_to_six,
    multiply,
    quaternion_to_matrix,
    rotate,
    six_to_matrix,
    slerp,
)

ORDERS = ["".join(order) for order in itertools.product("XYZ", repeat=3) if order[0] != order[1] != order[2]]


def some(count: int, seed: int = 0) -> torch.Tensor:
    q = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return q / q.norm(dim=-1, keepdim=True)


def test_a_quarter_turn_about_the_vertical_takes_z_to_x() -> None:
    q = about_y(torch.tensor(math.pi / 2, dtype=torch.float64))
    assert torch.allclose(rotate(q, torch.tensor([0.0, 0, 1]).double()), torch.tensor([1.0, 0, 0]).double())
    assert q.tolist() == pytest.approx([math.cos(math.pi / 4), 0, math.sin(math.pi / 4), 0])


def test_quaternions_and_matrices_act_alike_and_compose() -> None:
    a, b = some(50), some(50, 1)
    v = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ma, mb = quaternion_to_matrix(a), quaternion_to_matrix(b)
    assert torch.allclose(rotate(a, v), (ma @ v[..., None])[..., 0], atol=1e-12)
    assert torch.allclose(quaternion_to_matrix(multiply(a, b)), ma @ mb, atol=1e-12)
    assert torch.allclose(rotate(inverse(a), rotate(a, v)), v, atol=1e-12)
    assert torch.allclose(torch.linalg.det(ma), torch.ones(50).double())


def test_matrix_to_quaternion_holds_for_half_turns() -> None:
    half_turns = torch.cat([torch.zeros(4, 1), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0]])], -1)
    q = torch.cat([some(50), half_turns.double()])
    m = quaternion_to_matrix(q)
    assert torch.allclose(quaternion_to_matrix(matrix_to_quaternion(m)), m, atol=1e-12)
    assert bool((matrix_to_quaternion(m)[:, 0] >= 0).all())


def test_six_numbers_are_the_first_two_columns_and_anything_becomes_a_rotation() -> None:
    m = quaternion_to_matrix(some(20))
    assert torch.equal(matrix_to_six(m)[:, :3], m[:, :, 0])
    assert torch.allclose(six_to_matrix(matrix_to_six(m)), m, atol=1e-12)
    stretched = matrix_to_six(m) * torch.tensor([2.0, 2, 2, 3, 3, 3])
    stretched[:, 3:] += 0.7 * stretched[:, :3]
    assert torch.allclose(six_to_matrix(stretched), m, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_euler_angles_of_every_order_come_back(order: str) -> None:
    m = quaternion_to_matrix(some(200))
    assert torch.allclose(euler_to_matrix(matrix_to_euler(m, order), order), m, atol=1e-10)
    generator = torch.Generator().manual_seed(3)
    low = torch.tensor([-3.1, 0.1 if order[0] == order[2] else -1.5, -3.1], dtype=torch.float64)
    high = torch.tensor([3.1, 3.0 if order[0] == order[2] else 1.5, 3.1], dtype=torch.float64)
    angles = low + (high - low) * torch.rand(200, 3, generator=generator, dtype=torch.float64)
    assert torch.allclose(matrix_to_euler(euler_to_matrix(angles, order), order), angles, atol=1e-8)


@pytest.mark.parametrize("order", ORDERS)
def test_euler_angles_at_the_lock_still_give_the_rotation(order: str) -> None:
    middle = 0.0 if order[0] == order[2] else math.pi / 2
    angles = torch.tensor([[0.3, middle, 0.9], [-2.0, -middle, 1.0]], dtype=torch.float64)
    m = euler_to_matrix(angles, order)
    found = matrix_to_euler(m, order)
    assert torch.allclose(euler_to_matrix(found, order), m, atol=1e-7)
    assert found[:, 2].tolist() == [0, 0]


def test_euler_order_is_read_from_left_to_right() -> None:
    angles = torch.tensor([math.pi / 2, math.pi / 2], dtype=torch.float64)
    turned = euler_to_matrix(angles, "ZX") @ torch.tensor([0.0, 1, 0]).double()
    assert torch.allclose(turned, torch.tensor([0.0, 0, 1]).double(), atol=1e-12)  # X first takes y to z, Z leaves it


def test_orders_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="no order"):
        euler_to_matrix(torch.zeros(3), "XQZ")
    with pytest.raises(ValueError, match="cannot express"):
        matrix_to_euler(torch.eye(3), "XXZ")


def test_between_is_the_shortest_turn_also_for_opposite_directions() -> None:
    u = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0.3, -0.2, 0.9], [0, 0, 1]]).double()
    v = torch.tensor([[0, 3.0, 0], [0, -1, 0], [-0.3, 0.2, -0.9], [0, 0, 5]]).double()
    q = between(u, v)
    aim = v / v.norm(dim=-1, keepdim=True) * u.norm(dim=-1, keepdim=True)
    assert torch.allclose(rotate(q, u), aim, atol=1e-9)
    assert q[0].tolist() == pytest.approx([math.sqrt(0.5), 0, 0, math.sqrt(0.5)])
    assert q[3].tolist() == pytest.approx([1, 0, 0, 0])


def test_slerp_goes_the_short_arc_at_constant_speed() -> None:
    a, b = about_y(torch.tensor([0.2, 0.2]).double()), about_y(torch.tensor([1.4, 1.4]).double())
    share = torch.tensor([0.25, 0.5]).double()
    expected = about_y(torch.tensor([0.5, 0.8]).double())
    assert torch.allclose(slerp(a, -b, share), expected, atol=1e-12)
    assert torch.allclose(slerp(a, a, share), a, atol=1e-12)
