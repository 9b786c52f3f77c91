"""Likelihood against mixtures, whose density is known: values within their own bars, on every path."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound
from core.guidance import ClassifierGuided
from core.likelihood import (
    Dequantisation,
    Likelihood,
    Prior,
    bits_per_dim,
    decode,
    encode,
    hutchinson,
    log_prob,
    no_dequantisation,
    noised_data,
    normal,
    uniform_dequantisation,
)
from core.random import SamplingRNG
from core.schedule import EDM, VE, VP, Cosine, Discrete, Flow, Schedule, SubVP, linear_betas
from core.verify.mixture import Exact, Mixture

SCHEDULES: list[Schedule] = [VP(), SubVP(), VE(), EDM(), Flow(), Flow(shift=3.0), Cosine(), Discrete(linear_betas())]
ONE, NOTHING = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)


def mixture(size: int, correlated: bool = False) -> Mixture:
    generator = torch.Generator().manual_seed(size)
    means = torch.randn(3, size, dtype=torch.float64, generator=generator)
    variances = 0.05 + 0.5 * torch.rand(3, size, dtype=torch.float64, generator=generator)
    if correlated:
        turns = torch.linalg.qr(torch.randn(3, size, size, dtype=torch.float64, generator=generator)).Q
        variances = turns @ torch.diag_embed(variances) @ turns.mT
    return Mixture(means, variances, torch.tensor([0.2, 0.5, 0.3]))


def noised(law: Mixture, schedule: Schedule) -> Prior:
    """The exact law at the noisiest time."""
    return lambda x, t: law.log_density(x, *schedule(t))


def covered(found: Likelihood, truth: Tensor) -> float:
    return float(((found.value - truth).abs() <= found.error).double().mean())


@pytest.mark.parametrize("size", [1, 2, 16])
def test_log_prob_is_within_its_bar_and_the_paths_agree(size: int) -> None:
    law = mixture(size)
    x = law.sample(200, seed=1)
    truth = law.log_density(x, ONE, NOTHING)
    found = [log_prob(law.denoiser(s), x, noised(law, s), tolerance=1e-4) for s in (VP(), VE(), Flow())]
    for one in found:
        assert covered(one, truth) >= 0.95
        assert float(one.error.median()) < 1e-4 and float((one.value - truth).abs().max()) < 2e-3
    for one, other in combinations(found, 2):
        apart = (one.value - other.value).abs()
        assert float((apart <= one.error + other.error).double().mean()) >= 0.95


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_path_gives_the_density_of_the_data(schedule: Schedule) -> None:
    law = mixture(2, correlated=True)
    x = law.sample(50, seed=2)
    found = log_prob(law.denoiser(schedule), x, noised(law, schedule))
    assert covered(found, law.log_density(x, ONE, NOTHING)) >= 0.95
    assert float(found.error.max()) < 1e-3


def test_a_tighter_tolerance_gives_a_smaller_bar_and_a_smaller_error() -> None:
    law = mixture(2)
    x, errors, bars = law.sample(50, seed=3), [], []
    for tolerance in (1e-5, 1e-8):
        found = log_prob(law.denoiser(Flow(cleanest=1e-5)), x, tolerance=tolerance)
        errors.append(float((found.value - law.log_density(x, ONE, NOTHING)).abs().max()))
        bars.append(float(found.error.max()))
    assert errors[1] < 0.1 * errors[0] and bars[1] < 0.1 * bars[0] and errors[1] < 1e-6


@pytest.mark.parametrize("schedule", [VP(), VE(), EDM()])
def test_the_denoiser_knows_the_law_at_the_noisiest_time(schedule: Schedule) -> None:
    """Where samplers start from, N(0, sigma^2), is off by as much as the noisiest x still knows of the data."""
    law = mixture(16)
    denoise, t = law.denoiser(schedule), torch.tensor(schedule.noisiest, dtype=torch.float64)
    alpha, sigma = schedule(t)
    x = law.sample(100, 4, float(alpha), float(sigma))
    truth = law.log_density(x, alpha, sigma)
    assert float((noised_data(denoise)(x, t) - truth).abs().max()) < 2e-5
    assert float((normal(denoise)(x, t) - truth).abs().max()) > 1e-2


def test_the_normal_law_with_the_data_s_moments_is_exact_for_a_gaussian() -> None:
    law = Mixture(torch.full((1, 3), 0.7), torch.full((1, 3), 0.09))
    for schedule in (VP(), VE(), Flow()):
        denoise, t = law.denoiser(schedule), torch.tensor(schedule.noisiest, dtype=torch.float64)
        alpha, sigma = schedule(t)
        x = law.sample(20, 5, float(alpha), float(sigma))
        found = normal(denoise, 0.7, 0.3)(x, t)
        torch.testing.assert_close(found, law.log_density(x, alpha, sigma), rtol=1e-9, atol=1e-9)


def test_hutchinson_is_within_its_bar_and_exact_where_the_jacobian_is_diagonal() -> None:
    law = mixture(8, correlated=True)
    x = law.sample(200, seed=6)
    trace = hutchinson(SamplingRNG(0, range(200)), x, count=8)
    found = log_prob(law.denoiser(Flow()), x, trace=trace, tolerance=1e-4)
    truth = law.log_density(x, ONE, NOTHING)
    # The bar is Student's at 95 %: of 200 points 190 are expected inside, give or take 3.
    assert covered(found, truth) >= 0.92
    assert float(found.probe.median()) > 100 * float(found.solver.median())
    assert abs(float((found.value - truth).mean())) < 4 * float(found.probe.pow(2).sum().sqrt()) / 200
    plain = Mixture(torch.zeros(1, 8), torch.linspace(0.1, 1, 8)[None])
    exact = log_prob(plain.denoiser(Flow()), x, trace=trace)
    assert float(exact.probe.max()) < 1e-12 and covered(exact, plain.log_density(x, ONE, NOTHING)) >= 0.95
    with pytest.raises(ValueError, match="at least two probes"):
        hutchinson(SamplingRNG(0, range(200)), x, count=1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_encoding_a_gaussian_is_the_closed_form_and_decoding_inverts_it(schedule: Schedule) -> None:
    """The flow of N(m, s^2) keeps (x_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2)."""
    law = Mixture(torch.full((1, 2, 3), 0.4), torch.full((1, 2, 3), 0.36))
    denoise, x = law.denoiser(schedule), law.sample(4, seed=7)
    alpha, sigma = schedule(torch.tensor(schedule.noisiest, dtype=torch.float64))
    expected = alpha * 0.4 + (x - 0.4) / 0.6 * torch.sqrt(alpha**2 * 0.36 + sigma**2)
    noise = encode(denoise, x, 1e-9)
    torch.testing.assert_close(noise, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(decode(denoise, noise, 1e-9), x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(1,), (3, 2), (2, 2, 2), (1, 2, 2, 2)])
def test_a_mixture_is_decoded_from_its_code_in_any_rank(shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    law = Mixture(
        torch.stack([torch.full(shape, -1.0), torch.linspace(0, 1, size).view(shape)]), torch.ones(2, *shape) / 5
    )
    x = law.sample(5, seed=8)
    torch.testing.assert_close(decode(law.denoiser(VP()), encode(law.denoiser(VP()), x, 1e-8), 1e-8), x)
    found = log_prob(law.denoiser(Flow()), x)
    assert covered(found, law.log_density(x, ONE, NOTHING)) == 1


def test_a_float32_denoiser_gives_a_float64_answer_or_says_that_it_cannot() -> None:
    law = mixture(2)
    x = law.sample(20, seed=9)
    denoise = law.denoiser(Flow())
    found = log_prob(denoise, x.float(), tolerance=1e-4)
    assert found.value.dtype == torch.float64
    torch.testing.assert_close(found.value, law.log_density(x, ONE, NOTHING), rtol=1e-3, atol=1e-3)
    assert encode(denoise, x.float(), 1e-4).dtype == torch.float32
    with pytest.raises(ValueError, match="raise the tolerance or compute in float64"):
        encode(denoise, x.float(), tolerance=1e-13)


def test_guidance_by_the_exact_classifier_has_the_density_of_its_class() -> None:
    """The likelihood differentiates the gradient in the guided denoiser."""
    law = mixture(2)
    schedule = Flow(noisiest=0.99)
    kept = law.labelled(torch.tensor([1]))

    def posterior(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert kept.vector is not None
        allowed = kept.vector.expand(len(x), -1)
        alpha, sigma = schedule(t)
        joint = law.log_density(x, alpha, sigma, allowed) + law.weights[1].log()
        return joint - law.log_density(x, alpha, sigma)

    denoise: Bound = ClassifierGuided(Exact(law, schedule), posterior).bind()
    one = Mixture(law.means[1:2], law.variances[1:2])
    x = one.sample(20, seed=10)
    found = log_prob(denoise, x, noised(one, schedule))
    assert covered(found, one.log_density(x, ONE, NOTHING)) >= 0.95


def test_bits_per_dimension_state_their_dequantisation() -> None:
    """256 levels in [-1, 1] cost 7 bits more than the density says; a broad Gaussian is nearly flat over a cell."""
    law, noise = Mixture(torch.zeros(1, 4), torch.full((1, 4), 0.25)), SamplingRNG(0, range(30))
    levels = torch.arange(256, dtype=torch.float64) / 128 - 1 + 1 / 256
    x = law.sample(30, seed=11).clamp(-0.99, 0.99)
    x = levels[(x[..., None] - levels).abs().argmin(-1)]
    found = bits_per_dim(law.denoiser(Flow()), x, uniform_dequantisation(noise, 1 / 128))
    cells = torch.special.ndtr((x + 1 / 256) / 0.5) - torch.special.ndtr((x - 1 / 256) / 0.5)
    truth = -cells.log2().mean(1)
    assert found.dequantisation == "uniform over cells of 0.0078125: +7.0000 bits per dimension"
    torch.testing.assert_close(found.value, truth, rtol=0, atol=0.02)
    plain = bits_per_dim(law.denoiser(Flow()), x, no_dequantisation())
    truth = -law.log_density(x, ONE, NOTHING) / (4 * math.log(2))
    assert bool(((plain.value - truth).abs() <= plain.error).all()) and plain.dequantisation.startswith("none")
    drawn, _ = uniform_dequantisation(noise, 1 / 128).draw(x)
    assert float((drawn - x).abs().max()) <= 1 / 256 and float((drawn - x).std()) > 0.25 / 128


def test_a_variational_dequantisation_is_a_draw_and_its_density() -> None:
    """With the true conditional law of the draw the bound is tight: log p(cell), whatever was drawn."""
    law = Mixture(torch.zeros(1, 1), torch.ones(1, 1))
    x = torch.linspace(-1.25, 1.25, 6, dtype=torch.float64)[:, None]  # cells of width 0.5
    mass = torch.special.ndtr(x + 0.25) - torch.special.ndtr(x - 0.25)

    def draw(x: Tensor) -> tuple[Tensor, Tensor]:
        drawn = torch.special.ndtri(torch.special.ndtr(x - 0.25) + 0.3 * mass)
        return drawn, law.log_density(drawn, ONE, NOTHING) - mass[:, 0].log()

    found = bits_per_dim(law.denoiser(Flow()), x, Dequantisation("variational", draw))
    torch.testing.assert_close(found.value, -mass[:, 0].log2(), rtol=1e-5, atol=1e-5)
