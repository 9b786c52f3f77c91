"""Precision, recall, density and coverage where they are known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.evaluation.distances import neighbours


def draw(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def figures(real: Tensor, fake: Tensor, k: int = 3, k_density: int | None = None) -> tuple[float, ...]:
    found = neighbours(real, fake, k, k_density=k_density)
    return found.precision.value, found.recall.value, found.density.value, found.coverage.value


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equal_sets_are_inside_each_other(k: int) -> None:
    """Each ball holds its own centre and its k neighbours: (k + 1) of them, over k."""
    real = draw(300, 6) + 50
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    precision, recall, density, coverage = figures(real, real[order], k)
    assert (precision, recall, coverage) == (1, 1, 1)
    assert density == pytest.approx((k + 1) / k)


def test_sets_that_do_not_meet_have_nothing_of_each_other() -> None:
    real = draw(100, 6)
    assert figures(real, draw(80, 6, 1) + 1000) == (0, 0, 0, 0)


@pytest.mark.parametrize("shift", [3, 7, 20])
def test_evenly_spread_sets_that_are_shifted(shift: int) -> None:
    """Real points 0 .. n - 1, generated ones between them ``shift`` further on; for k = 2 balls reach 1, or 2 at ends.

    The last ball reaches n + 1, so n - shift + 1 points lie in some ball, and by symmetry as many real ones do. They
    lie in two balls each, but in three at n - 2.5 and in one beyond n - 1 (twice). Real balls from ``shift`` on
    hold some.
    """
    n = 40
    real = torch.arange(n, dtype=torch.float64)[:, None]
    precision, recall, density, coverage = figures(real, real + shift + 0.5, k=2)
    assert precision == recall == pytest.approx((n - shift + 1) / n)
    assert density == pytest.approx((2 * (n - shift) + 1) / (2 * n))
    assert coverage == pytest.approx((n - shift) / n)


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.6])
def test_uniform_laws_that_are_shifted_share_their_overlap(shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.rand(3000, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    precision, recall, density, coverage = figures(real, fake + shift, k=5)
    # A share p of 3,000 has a deviation of 0.009 at most, and the balls at the edge reach 5 / 3,000 beyond it.
    for share in (precision, recall, density, coverage):
        assert share == pytest.approx(1 - shift, abs=0.03)


@pytest.mark.parametrize(("real_count", "fake_count", "k"), [(20, 20, 3), (30, 12, 5), (12, 40, 1)])
def test_equal_laws_have_the_expected_density_and_coverage(real_count: int, fake_count: int, k: int) -> None:
    """E density = 1 and E coverage = 1 - (N-1)...(N-k) / ((M+N-1)...(M+N-k)), in any dimension (2002.09797, 3.3)."""
    found = [figures(draw(real_count, 2, 2 * seed), draw(fake_count, 2, 2 * seed + 1), k)[2:] for seed in range(400)]
    values = torch.tensor(found, dtype=torch.float64)
    missed = 1.0
    for i in range(1, k + 1):
        missed *= (real_count - i) / (fake_count + real_count - i)
    error = values.std(0) / len(values) ** 0.5
    assert bool(((values.mean(0) - torch.tensor([1.0, 1 - missed])).abs() < 4 * error).all())


def test_each_pair_of_figures_has_its_own_k() -> None:
    real, fake = draw(60, 3), 1.4 * draw(50, 3, 1)
    three, five = figures(real, fake, 3), figures(real, fake, 5)
    assert figures(real, fake, 3, k_density=5) == three[:2] + five[2:]
    assert three[2:] != five[2:]
    with pytest.raises(ValueError, match="50 neighbours need more samples than the 60 real and 50"):
        neighbours(real, fake, 3, k_density=50)
    with pytest.raises(ValueError, match="neighbours need more"):
        neighbours(real, fake, 3, k_density=0)


def test_they_are_their_definitions() -> None:
    """Equation by equation, one pair of points at a time, with other sizes and ks."""
    real, fake, k, wide = draw(37, 2), draw(29, 2, 1) * 1.3 + 0.4, 2, 4

    def radius(points: Tensor, index: int, count: int) -> float:
        return sorted(float((points[index] - other).norm()) for other in points)[count]

    def inside(point: Tensor, points: Tensor, count: int) -> list[bool]:
        return [float((point - each).norm()) <= radius(points, i, count) for i, each in enumerate(points)]

    precision = sum(any(inside(point, real, k)) for point in fake) / 29
    recall = sum(any(inside(point, fake, k)) for point in real) / 37
    balls = [inside(point, real, wide) for point in fake]
    density = sum(map(sum, balls)) / (wide * 29)
    coverage = sum(map(any, zip(*balls))) / 37
    assert figures(real, fake, k, wide) == pytest.approx((precision, recall, density, coverage))
