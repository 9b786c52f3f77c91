"""Metrics against closed forms, constructed point sets, and the coverage that their intervals claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from core.evaluation.distances import (
    Moments,
    _influence,
    features,
    frechet,
    frechet_distance,
    frechet_unbiased,
    kernel,
    kernel_subsets,
    moments,
    nearest,
    nearest_median,
    neighbours,
)


def draw(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(size: int, seed: int) -> Tensor:
    root = draw(size, size, seed)
    return root @ root.T / size + 0.1 * torch.eye(size)


def test_the_frechet_distance_of_commuting_gaussians_is_that_of_their_deviations() -> None:
    turn = torch.linalg.qr(draw(5, 5)).Q
    s, r = draw(5, 1, 1)[:, 0].abs() + 0.1, draw(5, 1, 2)[:, 0].abs() + 0.1
    a = Moments(torch.zeros(5).double(), turn @ torch.diag(s**2) @ turn.T)
    b = Moments(torch.full((5,), 0.3, dtype=torch.float64), turn @ torch.diag(r**2) @ turn.T)
    expected = 5 * 0.09 + float(((s - r) ** 2).sum())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_the_frechet_distance_of_any_gaussians_is_the_matrix_root_s() -> None:
    a, b = Moments(draw(6, 1)[:, 0], covariance(6, 1)), Moments(draw(6, 1, 5)[:, 0], covariance(6, 2))
    root = sqrtm((a.covariance @ b.covariance).numpy()).real
    traces = a.covariance.trace() + b.covariance.trace() - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(float((a.mean - b.mean).pow(2).sum() + traces), rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-12)


def test_the_frechet_distance_with_fewer_samples_than_features_is_exact() -> None:
    """Rank-deficient covariances: samples on two axes that do not meet."""
    line = torch.linspace(-1, 1, 9, dtype=torch.float64)
    a, b = torch.zeros(9, 20).double(), torch.zeros(9, 20).double()
    a[:, 3], b[:, 7] = line, 2 * line
    assert frechet(a, b).value == pytest.approx(5 * float(line.var()), rel=1e-12)


def test_frechet_is_the_benchmark_s_formula_on_features() -> None:
    """The same figure as the published comparison of image models, which takes the root of one covariance."""
    a, b = draw(300, 16) @ covariance(16, 3) + 0.2, draw(200, 16, 7).relu()
    mean, cov_a, cov_b = a.mean(0) - b.mean(0), torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    expected = float(mean @ mean + cov_a.trace() + cov_b.trace() - 2 * shared)
    assert frechet(a, b).value == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("shift", "scale", "most"), [(0.5, 1.3, 1.25), (1.0, 1.0, 1.25), (0.0, 1.0, 1.7)])
def test_the_interval_of_a_frechet_distance_is_its_spread(shift: float, scale: float, most: float) -> None:
    """Over fresh draws; in equal laws it is too wide by less than a half, never too narrow."""
    found = [frechet(draw(200, 4, 2 * s) * scale + shift, draw(300, 4, 2 * s + 1)) for s in range(200)]
    spread = float(np.std([each.value for each in found]))
    error = float(np.mean([(each.high - each.low) / (2 * 1.96) for each in found]))
    assert 0.9 < error / spread < most


def test_the_influence_of_a_sample_is_the_derivative_of_the_distance() -> None:
    """A sample that counts a little more moves the distance by its influence."""
    a, b = draw(5000, 3, 0) * 1.5, draw(80, 3, 1) + 0.4
    second = b.mean(0), torch.cov(b.T)
    influence = _influence(a, b)
    for row in (0, 17):
        moved = []
        for more in (-1e-4, 1e-4):
            weight = torch.full((5000,), (1 - more) / 5000, dtype=torch.float64)
            weight[row] += more
            mean = weight @ a
            moved.append(Moments(mean, (a - mean).T @ ((a - mean) * weight[:, None])))
        ends = [frechet_distance(each, Moments(*second)) for each in moved]
        centre = float(influence.mean())
        assert (ends[1] - ends[0]) / 2e-4 == pytest.approx(float(influence[row]) - centre, rel=0.01, abs=0.01)


def test_the_kernel_distance_is_its_definition() -> None:
    a, b = draw(7, 3), draw(5, 3, 1)

    def k(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    within = [sum(k(x, y) for x in s for y in s if x is not y) for s in (list(a), list(b))]
    across = sum(k(x, y) for x in a for y in b)
    assert kernel(a, b).value == pytest.approx(within[0] / 42 + within[1] / 20 - 2 * across / 35, rel=1e-12)


def moment_distance(shift: float) -> float:
    """In one dimension (x y + 1)^3 = sum_j C(3, j) (x y)^j: the squared MMD is a sum over raw moments."""
    there = (1.0, shift, shift**2 + 1, shift**3 + 3 * shift)
    return sum(math.comb(3, j) * (m - n) ** 2 for j, (m, n) in enumerate(zip((1.0, 0.0, 1.0, 0.0), there)))


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_the_kernel_distance_is_unbiased(shift: float) -> None:
    """Over many small sets the mean is the closed form: 0 for equal laws, as a biased estimate would not be."""
    values = torch.tensor([kernel(draw(20, 1, 2 * i), draw(30, 1, 2 * i + 1) + shift).value for i in range(1500)])
    error = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean()) - moment_distance(shift)) < 3.5 * error
    assert shift or float(values.min()) < 0


def test_kernel_subsets_have_the_mean_of_the_whole() -> None:
    a, b = draw(400, 4), draw(300, 4, 1) * 1.3
    whole, parts = kernel(a, b, groups=50), kernel_subsets(a, b, size=150, count=100)
    assert parts.value == pytest.approx(whole.value, rel=0.15)
    assert parts.low < whole.value < parts.high
    assert 0.4 < (parts.high - parts.low) / (whole.high - whole.low) < 2
    with pytest.raises(ValueError, match="at least as many samples"):
        kernel_subsets(a, b, size=301)


def test_the_intervals_cover_what_they_claim() -> None:
    """Of 200 cases the count that holds the truth is within 2 % (one deviation) of what is claimed."""
    by_kernel = lambda a, b: kernel(a, b, groups=20)  # noqa: E731
    for metric, truth, least in ((by_kernel, moment_distance(0.5), 0.86), (frechet, 0.25, 0.89)):
        found = [metric(draw(400, 1, 2 * i), draw(400, 1, 2 * i + 1) + 0.5) for i in range(200)]
        share = sum(each.low <= truth <= each.high for each in found) / len(found)
        assert least <= share <= 0.99


@pytest.mark.parametrize(
    ("size", "count", "shift", "scale"), [(8, 100, 0.0, 1.0), (8, 100, 0.1, 1.1), (20, 170, 0.3, 0.8)]
)
def test_the_interval_of_an_unbiased_frechet_distance_covers_that_of_the_laws(
    size: int, count: int, shift: float, scale: float
) -> None:
    """A few samples a dimension are enough, for equal laws as well, where the distance of samples is far above 0."""
    widths = torch.linspace(1, 0.1, size, dtype=torch.float64)
    truth = size * shift**2 + float((((scale - 1) * widths) ** 2).sum())
    pairs = [
        (draw(2 * count, size, 2 * s) * widths * scale + shift, draw(count, size, 2 * s + 1) * widths)
        for s in range(120)
    ]
    found = [frechet_unbiased(*pair) for pair in pairs]
    assert sum(each.low <= truth <= each.high for each in found) >= 0.9 * 120
    error = np.std([each.value for each in found]) / len(found) ** 0.5
    assert abs(np.mean([each.value for each in found]) - truth) < 4 * error
    assert np.mean([frechet(*pair).value for pair in pairs]) > truth + 4 * error
    assert np.mean([each.high - each.low for each in found]) < 2 * 1.96 * 2 * np.std([each.value for each in found])


def test_neighbours_on_a_line_are_counted_by_hand() -> None:
    """With k = 1 the real 0, 1, 2, 10 have balls of radius 1, 1, 1, 8; the generated 2.5, 2.6, 30 of 0.1, 0.1, 27.4."""
    real, fake = torch.tensor([[0.0], [1], [2], [10]]), torch.tensor([[2.5], [2.6], [30.0]])
    found = neighbours(real, fake, k=1)
    # 2.5 and 2.6 lie in the balls of 2 (1 to 3) and 10 (2 to 18); 30 in none. 10 is in the ball of 30, no other is.
    assert found.precision.value == pytest.approx(2 / 3)
    assert found.recall.value == pytest.approx(1 / 4)
    assert found.density.value == pytest.approx((2 + 2 + 0) / 3)
    assert found.coverage.value == pytest.approx(2 / 4)
    assert neighbours(real, real + 0.25, k=2).recall.value == 1
    with pytest.raises(ValueError, match="4 neighbours need more samples"):
        neighbours(real, fake, k=4)


def test_neighbours_tell_dropped_modes_from_bad_samples() -> None:
    modes = torch.arange(4).repeat_interleave(100)[:, None] * 20.0
    real, fake = draw(400, 2) + modes, draw(400, 2, 1) + modes
    equal = neighbours(real, fake, k=5)
    for figure in (equal.precision, equal.recall, equal.coverage):
        assert figure.value > 0.9 and figure.low <= figure.value <= figure.high
    assert equal.density.low < 1 < equal.density.high
    half = neighbours(real, torch.cat([fake[:200], draw(200, 2, 2) + modes[:200]]), k=5)
    assert half.precision.value > 0.9 and half.recall.value == pytest.approx(0.5, abs=0.06)
    assert half.coverage.value <= 0.5
    noisy = neighbours(real, torch.cat([fake[::2], fake[::2] + 1000 * draw(200, 1, 3).sign()]), k=5)
    assert noisy.precision.value == pytest.approx(0.5, abs=0.06)
    # A share of 0.5 of 400 has a deviation of 0.025.
    assert noisy.precision.high - noisy.precision.low == pytest.approx(4 * 0.025, rel=0.2)


def test_the_blocks_do_not_change_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = draw(90, 3), draw(70, 3, 1) * 1.2
    whole, near = neighbours(real, fake), nearest(fake, real)
    monkeypatch.setattr("core.evaluation.distances.BLOCK", 16)
    assert str(neighbours(real, fake)) == str(whole)
    torch.testing.assert_close(nearest(fake, real), near)


def test_a_copy_is_at_distance_zero_and_memorising_is_seen() -> None:
    train = draw(200, 8) + 100
    copies = train[torch.tensor([5, 17, 60])]
    distance, which = nearest(copies, train)
    assert distance.tolist() == [0, 0, 0] and which.tolist() == [5, 17, 60]
    fresh = nearest_median(draw(100, 8, 1) + 100, train, groups=20)
    brute = np.median([min(np.linalg.norm(x - y) for y in train.numpy()) for x in (draw(100, 8, 1) + 100).numpy()])
    assert fresh.value == pytest.approx(float(brute), rel=1e-10) and fresh.low < fresh.value < fresh.high
    assert nearest_median(train[:50] + 0.01, train).value == pytest.approx(0.01 * 8**0.5)


def test_features_are_those_of_the_whole_set_and_must_be_numbers() -> None:
    data = torch.arange(24.0).view(6, 1, 2, 2)
    found = features(lambda x: x * 2, data, batch=4)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, 2 * data.flatten(1).double())
    with pytest.raises(ValueError, match="NaN or infinity"):
        frechet(found, found.log() - found.log())
    with pytest.raises(ValueError, match="two samples or more"):
        kernel(found[:1], found)
