"""Inverse problems on normal data, whose posterior is known; operators against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound
from core.grid import trailing
from core.inverse import DPS, Blur, Downsample, LinearOperator, Mask, MeasurementPosterior, scalar_variance
from core.inverse.operator import Operator, gaussian_kernel
from core.inverse.posterior import conjugate_gradients
from core.random import SamplingRNG
from core.sample.heun import heun
from core.sample.solvers.sde import dpmpp_2m_sde
from core.sample.step import run
from core.schedule import VP, Schedule
from core.verify.mixture import Mixture

SIDE = 4
SHAPE = (1, SIDE, SIDE)


class Model:
    """A closed form as something that binds."""

    def __init__(self, law: Mixture, schedule: Schedule) -> None:
        self.law, self.schedule = law, schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        return self.law.denoiser(self.schedule)


def operators() -> dict[str, Operator]:
    mask = (torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) < 0.5).double()
    weights = torch.randn(3, SIDE * SIDE, generator=torch.Generator().manual_seed(3)).double()
    return {
        "mask": Mask(mask),
        "blur": Blur(gaussian_kernel(3, 0.8)),
        "downsample": Downsample(2),
        "linear": LinearOperator(lambda x: x.flatten(1) @ weights.t(), SHAPE),
    }


@pytest.mark.parametrize("name", sorted(operators()))
def test_adjoints_are_adjoint(name: str) -> None:
    operator = operators()[name]
    x = torch.randn(5, *SHAPE, dtype=torch.float64)
    y = torch.randn_like(operator.apply(x))
    assert float((operator.apply(x) * y).sum()) == pytest.approx(float((x * operator.adjoint(y)).sum()), abs=1e-10)


def test_the_pseudo_inverse_of_averages() -> None:
    shrink = Downsample(2)
    y = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    assert torch.allclose(shrink.apply(shrink.inverse(y)), y)
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    assert torch.allclose(
        shrink.inverse(shrink.apply(shrink.inverse(shrink.apply(x)))), shrink.inverse(shrink.apply(x))
    )


def test_conjugate_gradients_solve() -> None:
    torch.manual_seed(0)
    root = torch.randn(2, 6, 6, dtype=torch.float64)
    matrix = root @ root.mT + 0.1 * torch.eye(6)
    wanted = torch.randn(2, 6, dtype=torch.float64)
    found = conjugate_gradients(lambda v: torch.einsum("bij,bj->bi", matrix, v), wanted, 12)
    assert torch.allclose(found, torch.linalg.solve(matrix, wanted), atol=1e-8)


def test_conjugate_gradients_never_lead_away() -> None:
    """With matrices that are neither symmetric nor positive, as a network's covariance is: no worse than nothing."""
    torch.manual_seed(0)
    matrix = torch.randn(50, 6, 6, dtype=torch.float64)
    wanted = torch.randn(50, 6, dtype=torch.float64)
    found = conjugate_gradients(lambda v: torch.einsum("bij,bj->bi", matrix, v), wanted, 30)
    rest = wanted - torch.einsum("bij,bj->bi", matrix, found)
    assert bool(found.isfinite().all())
    assert bool((rest.norm(dim=1) <= wanted.norm(dim=1) * (1 + 1e-9)).all())


def matrix_of(operator: Operator) -> Tensor:
    unit = torch.eye(SIDE * SIDE, dtype=torch.float64).view(-1, *SHAPE)
    return operator.apply(unit).flatten(1).t()


def normal_data() -> tuple[Mixture, Tensor, Tensor]:
    torch.manual_seed(0)
    root = torch.randn(SIDE * SIDE, SIDE * SIDE, dtype=torch.float64) / SIDE
    covariance = root @ root.t() + 0.05 * torch.eye(SIDE * SIDE)
    mean = torch.randn(SIDE * SIDE, dtype=torch.float64)
    return Mixture(mean.view(1, *SHAPE), covariance[None]), mean, covariance


@pytest.mark.parametrize("name", sorted(operators()))
def test_the_exact_posterior_of_normal_data(name: str) -> None:
    """With the model's own covariance the guided denoiser is the posterior's denoiser, so any sampler draws from it."""
    law, mean, covariance = normal_data()
    operator, deviation, count = operators()[name], 0.3, 2000
    a = matrix_of(operator)
    truth = law.sample(1, seed=4).view(1, *SHAPE)
    y = operator.apply(truth) + deviation * torch.randn(
        operator.apply(truth).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
    )
    gain = covariance @ a.t() @ torch.linalg.inv(a @ covariance @ a.t() + deviation**2 * torch.eye(len(a)))
    wanted_mean = mean + gain @ (y.flatten() - a @ mean)
    wanted_covariance = covariance - gain @ a @ covariance
    seen = MeasurementPosterior(Model(law, VP()), operator, y.expand(count, *y.shape[1:]), deviation, iterations=16)
    times = VP().time(torch.linspace(4.0, -4.5, 30, dtype=torch.float64).exp())
    times = torch.cat([times, VP().time(torch.zeros(1, dtype=torch.float64))])
    noise = SamplingRNG(0, range(count))
    x = noise.start(SHAPE) * float(VP()(times[0])[1])
    drawn = run(heun(seen.bind(), x, times, noise)).flatten(1)
    scale = float(covariance.diagonal().mean().sqrt())
    assert (drawn.mean(0) - wanted_mean).abs().max() < 0.1 * scale
    assert (torch.cov(drawn.t()) - wanted_covariance).abs().max() < 0.12 * float(covariance.diagonal().mean())


def test_the_guess_of_a_variance_is_exact_where_data_are_white() -> None:
    law = Mixture(torch.zeros(1, *SHAPE, dtype=torch.float64), torch.full((1, *SHAPE), 0.7, dtype=torch.float64))
    y = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    x, t = torch.randn(1, *SHAPE, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    exact = MeasurementPosterior(Model(law, VP()), Downsample(2), y, 0.1).bind()(x, t)
    guessed = MeasurementPosterior(Model(law, VP()), Downsample(2), y, 0.1, variance=scalar_variance(0.7)).bind()(x, t)
    assert torch.allclose(exact, guessed, atol=1e-9)


def test_posterior_weights_of_modes() -> None:
    """Two modes, one measured number: the share of samples in each is what Bayes says."""
    means = torch.stack([torch.full(SHAPE, 1.0), torch.full(SHAPE, -1.0)]).double()
    law = Mixture(means, torch.full_like(means, 0.05), torch.tensor([0.5, 0.5]))
    count, deviation = 600, 1.0
    operator = LinearOperator(lambda x: x.flatten(1)[:, :1], SHAPE)
    y = torch.tensor([[0.6]], dtype=torch.float64)
    variance = 0.05 + deviation**2
    odds = torch.exp(torch.tensor(-((0.6 - 1) ** 2) / (2 * variance) + (0.6 + 1) ** 2 / (2 * variance)))
    wanted = float(odds / (1 + odds))
    seen = MeasurementPosterior(Model(law, VP()), operator, y.expand(count, 1), deviation)
    noise = SamplingRNG(3, range(count))
    drawn = run(dpmpp_2m_sde(seen.bind(), noise.start(SHAPE), trailing(VP(), 40), noise))
    share = float((drawn.flatten(1).mean(1) > 0).double().mean())
    assert share == pytest.approx(wanted, abs=0.1)


def test_dps_draws_towards_the_measurement() -> None:
    law, _, _ = normal_data()
    operator = operators()["mask"]
    truth = law.sample(1, seed=4).view(1, *SHAPE)
    y = operator.apply(truth).expand(64, *SHAPE)
    noise = SamplingRNG(0, range(64))
    plain = run(heun(Model(law, VP()).bind(), noise.start(SHAPE), trailing(VP(), 30), noise))
    guided = run(heun(DPS(Model(law, VP()), operator, y, 2.0).bind(), noise.start(SHAPE), trailing(VP(), 30), noise))

    def off(x: Tensor) -> float:
        return float((operator.apply(x) - y).square().mean())

    assert off(guided) < 0.3 * off(plain)


def test_measurements_that_are_no_numbers_are_refused() -> None:
    law, _, _ = normal_data()
    with pytest.raises(ValueError, match="NaN or infinity"):
        MeasurementPosterior(Model(law, VP()), Downsample(2), torch.full((1, 1, 2, 2), float("nan")))
    with pytest.raises(ValueError, match="not negative"):
        MeasurementPosterior(Model(law, VP()), Downsample(2), torch.zeros(1, 1, 2, 2), -1.0)
    with pytest.raises(ValueError, match="two odd sizes"):
        Blur(torch.ones(2, 2))
