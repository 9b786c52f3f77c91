"""Mixtures: every closed form against another way to the same number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.schedule import EDM, VP, Flow
from core.verify.mixture import Exact, Mixture

LEVELS = [(1.0, 0.0), (0.9, 0.3), (0.3, 0.954), (1.0, 40.0), (0.0, 1.0)]


def double(*values: float) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def tilted(dims: int = 3, count: int = 4) -> Mixture:
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(count, dims, generator=generator, dtype=torch.float64)
    roots = torch.randn(count, dims, dims, generator=generator, dtype=torch.float64)
    return Mixture(means, roots @ roots.mT / dims, torch.tensor([0.1, 0.2, 0.3, 0.4]), classes=[0, 1, 1, 0])


def points(mixture: Mixture, alpha: float, sigma: float, count: int = 32) -> Tensor:
    return mixture.sample(count, seed=5, alpha=alpha, sigma=sigma)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_denoiser_score_and_density_are_those_of_the_explicit_sum(alpha: float, sigma: float) -> None:
    mixture = tilted()
    x = points(mixture, alpha, sigma)
    basis = mixture.basis
    assert basis is not None
    covariances = (basis * mixture.variances[:, None]) @ basis.mT  # (K, D, D)
    noisy = alpha**2 * covariances + sigma**2 * torch.eye(3, dtype=torch.float64)
    parts = [torch.distributions.MultivariateNormal(alpha * m, c) for m, c in zip(mixture.means, noisy)]
    joint = torch.stack([part.log_prob(x) for part in parts], 1) + mixture.weights.log()
    gains = alpha * covariances @ noisy.inverse()
    centres = mixture.means + torch.einsum("kij,bkj->bki", gains, x[:, None] - alpha * mixture.means)
    clean = (joint.softmax(1)[..., None] * centres).sum(1)
    leaf = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(mixture.log_density(leaf, *double(alpha, sigma)).sum(), leaf)
    torch.testing.assert_close(
        mixture.log_density(x, *double(alpha, sigma)), joint.logsumexp(1), rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(mixture.clean(x, *double(alpha, sigma)), clean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mixture.score(x, *double(alpha, sigma)), score, rtol=1e-9, atol=1e-9)


def test_tweedie_ties_the_score_to_the_denoiser() -> None:
    mixture = tilted()
    alpha, sigma = double(0.6, 0.8)
    x = points(mixture, 0.6, 0.8)
    tweedie = (x + sigma**2 * mixture.score(x, alpha, sigma)) / alpha
    torch.testing.assert_close(mixture.clean(x, alpha, sigma), tweedie, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_the_density_integrates_to_one(alpha: float, sigma: float) -> None:
    mixture = Mixture(torch.tensor([[-2.0], [1.0]]), torch.tensor([[0.3], [0.7]]), torch.tensor([0.25, 0.75]))
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)[:, None]
    density = mixture.log_density(x, *double(alpha, sigma)).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=1e-10)


def test_both_ends_are_exact() -> None:
    mixture = tilted()
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(mixture.clean(x, *double(0.0, 2.0)), mixture.mean().expand(8, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(mixture.clean(x, *double(0.5, 0.0)), x / 0.5, rtol=1e-11, atol=1e-11)


def test_points_are_found_again_even_without_noise() -> None:
    mixture = Mixture(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    x = torch.tensor([[0.1, 0.2], [2.0, 3.0]], dtype=torch.float64)
    for sigma in (0.0, 1e-3):
        assert torch.equal(mixture.clean(x, *double(1.0, sigma)), mixture.means)
    assert torch.equal(mixture.clean(x, *double(0.0, 1.0)), torch.tensor([1.5, 2.0]).double().expand(2, 2))


def test_a_singular_covariance_is_kept_singular() -> None:
    mixture = Mixture(torch.zeros(1, 2), torch.ones(1, 2, 2))
    x = torch.tensor([[1.0, -1.0], [2.0, 2.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 0.0], [2.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(mixture.clean(x, *double(1.0, 1e-8)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.0), (0.6, 0.8)])
def test_samples_have_the_stated_mean_and_covariance(alpha: float, sigma: float) -> None:
    mixture, count = tilted(), 20_000
    x = mixture.sample(count, seed=1, alpha=alpha, sigma=sigma)
    covariance = mixture.covariance(alpha, sigma)
    error = (x.mean(0) - mixture.mean(alpha)) / (covariance.diagonal() / count).sqrt()
    assert error.abs().max() < 4
    centred = x - x.mean(0)
    products = centred[:, :, None] * centred[:, None]
    error = (products.mean(0) - covariance) / (products.std(0) / math.sqrt(count))
    assert error.abs().max() < 4
    assert torch.equal(mixture.sample(7, seed=1, alpha=alpha, sigma=sigma), x[:7])


def test_variances_and_matrices_and_any_shape_agree() -> None:
    generator = torch.Generator().manual_seed(9)
    means = torch.randn(3, 2, 2, 2, generator=generator, dtype=torch.float64)
    variances = torch.rand(3, 2, 2, 2, generator=generator, dtype=torch.float64)
    shaped, flat = Mixture(means, variances), Mixture(means.flatten(1), torch.diag_embed(variances.flatten(1)))
    x = torch.randn(5, 2, 2, 2, generator=generator, dtype=torch.float64)
    alpha, sigma = torch.linspace(0.1, 1, 5, dtype=torch.float64), torch.linspace(1, 0, 5, dtype=torch.float64)
    clean = shaped.clean(x, alpha, sigma)
    assert clean.shape == x.shape
    torch.testing.assert_close(clean.flatten(1), flat.clean(x.flatten(1), alpha, sigma), rtol=1e-9, atol=1e-9)
    for i in range(5):
        torch.testing.assert_close(clean[i : i + 1], shaped.clean(x[i : i + 1], alpha[i], sigma[i]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [VP(), EDM(), Flow()])
def test_a_label_leaves_its_components_and_their_law(schedule: VP | EDM | Flow) -> None:
    mixture = tilted()
    basis = mixture.basis
    assert basis is not None
    chosen = torch.tensor([1, 2])
    covariances = (basis * mixture.variances[:, None]) @ basis.mT
    alone = Mixture(mixture.means[chosen], covariances[chosen], mixture.weights[chosen])
    t = torch.tensor(0.5, dtype=torch.float64)
    alpha, sigma = schedule(t)
    x = points(mixture, float(alpha), float(sigma), 6)
    labelled = mixture.labelled(torch.tensor([1] * 6))
    bound = Exact(mixture, schedule).bind(labelled)
    torch.testing.assert_close(bound(x, t), alone.denoiser(schedule)(x, t), rtol=1e-10, atol=1e-10)
    # With every component allowed, the condition says nothing.
    free = Exact(mixture, schedule).bind(Cond(vector=torch.ones(6, 4)))
    torch.testing.assert_close(free(x, t), mixture.denoiser(schedule)(x, t), rtol=1e-12, atol=1e-12)
    # p(x) is the sum of p(x, label).
    joint = [
        mixture.log_density(x, alpha, sigma, mixture.labelled(torch.tensor([label] * 6)).vector)
        + mixture.weights[mixture.classes == label].sum().log()
        for label in (0, 1)
    ]
    torch.testing.assert_close(torch.logaddexp(*joint), mixture.log_density(x, alpha, sigma), rtol=1e-12, atol=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="weights must be 2 numbers"):
        Mixture(torch.zeros(2, 3), weights=torch.ones(3))
    with pytest.raises(ValueError, match="covariances must be variances"):
        Mixture(torch.zeros(2, 3), torch.ones(2, 2))
    with pytest.raises(ValueError, match="no negative eigenvalue"):
        Mixture(torch.zeros(2, 3), -torch.ones(2, 3))
