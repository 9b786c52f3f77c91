"""Likelihood against mixtures, whose density is known: values within their own bars, on every path."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, Estimate
from core.guidance import ClassifierGuided
from core.likelihood import (
    Dequantisation,
    Hutchinson,
    Likelihood,
    Prior,
    bits_per_dim,
    cleanest_time,
    decode,
    encode,
    fitted_dequantisation,
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
    x = law.sample(50, seed=1)
    truth = law.log_density(x, ONE, NOTHING)
    found = [log_prob(law.denoiser(s), x, noised(law, s)) for s in (VP(), VE(), Flow())]
    for one in found:
        assert covered(one, truth) >= 0.95
        assert float(one.error.median()) < 2e-5 and float((one.value - truth).abs().max()) < 2e-6
        assert one.evaluations < 300 and not bool(one.probe.any())
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
    """The score that corrects the path is not that of the flow's density here: the prior is not the law's."""
    law = mixture(2)
    x = law.sample(50, seed=3)
    denoise = wrong(law, Flow(cleanest=1e-5))
    truth = log_prob(denoise, x, tolerance=1e-11)
    errors, bars = [], []
    for tolerance in (1e-5, 1e-9):
        found = log_prob(denoise, x, tolerance=tolerance)
        errors.append(float((found.value - truth.value).abs().max()))
        bars.append(float(found.error.max()))
        assert covered(found, truth.value) >= 0.95
    assert errors[1] < 0.5 * errors[0] < 1e-7 and bars[1] < 0.1 * bars[0]


def test_a_path_that_leaves_the_ode_is_corrected_by_its_own_defect() -> None:
    """At a tolerance this coarse the path alone is wrong by thirty times as much."""
    means = 0.1 * torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    law, schedule = Mixture(means, torch.logspace(-4, 0, 6, dtype=torch.float64).expand(3, 6)), EDM(cleanest=1e-4)
    x = law.sample(20, seed=17)
    truth = law.log_density(x, ONE, NOTHING)
    found = log_prob(law.denoiser(schedule), x, noised(law, schedule), tolerance=0.1)
    assert covered(found, truth) >= 0.95 and float((found.value - truth).abs().median()) < 2e-4


def wrong(law: Mixture, schedule: Schedule) -> Bound:
    """A denoiser that is none of any law: its Jacobian is not symmetric, and its score is not its flow's."""
    exact = law.denoiser(schedule)

    def estimate(x: Tensor, t: Tensor) -> Estimate:
        alpha, sigma = schedule(t)
        part = sigma**2 / (alpha**2 + sigma**2)
        return Estimate(exact(x, t) + 0.3 * part * torch.sin(2 * x.roll(1, -1)))

    return Bound(schedule, estimate)


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
    truth = law.log_density(x, ONE, NOTHING)
    noise = SamplingRNG(0, range(200))
    found = log_prob(law.denoiser(Flow()), x, noised(law, Flow()), Hutchinson(noise, bar=0.2))
    # The bar is Student's at 95 %: of 200 points 190 are expected inside, give or take 3.
    assert covered(found, truth) >= 0.92
    assert float(found.probe.median()) > 100 * float(found.solver.median())
    assert abs(float((found.value - truth).mean())) < 4 * float(found.probe.pow(2).sum().sqrt()) / 200
    plain = Mixture(torch.zeros(1, 8), torch.linspace(0.1, 1, 8)[None])
    exact = log_prob(plain.denoiser(Flow()), x, trace=Hutchinson(noise))
    assert float(exact.probe.max()) < 1e-12 and covered(exact, plain.log_density(x, ONE, NOTHING)) >= 0.95
    with pytest.raises(ValueError, match="at least two probes"):
        Hutchinson(noise, probes=1)


def test_more_probes_are_spent_until_the_bar_is_what_was_asked_for() -> None:
    law = mixture(8, correlated=True)
    x = law.sample(20, seed=6)
    unit = 8 * math.log(2)
    few, many = (
        log_prob(law.denoiser(Flow()), x, trace=Hutchinson(SamplingRNG(0, range(20)), bar, most=200))
        for bar in (1.0, 0.03)
    )
    assert many.products > 2 * few.products
    assert float(many.error.mean()) / unit < 0.04 < float(few.error.mean()) / unit
    capped = log_prob(law.denoiser(Flow()), x, trace=Hutchinson(SamplingRNG(0, range(20)), 0.01, most=4))
    assert capped.products <= 7 * few.products / 2


def test_the_trace_is_exact_in_few_dimensions_by_itself() -> None:
    small, large = mixture(8), mixture(40)
    assert not bool(log_prob(small.denoiser(Flow()), small.sample(2)).probe.any())
    assert bool(log_prob(large.denoiser(Flow()), large.sample(2)).freedom.gt(1).all())


def test_data_thinner_than_the_cleanest_noise_widen_the_bar_and_stay_inside() -> None:
    """The model of such data has a density at the cleanest time, if not of clean data: that one stays sharp."""
    deviations = torch.tensor([0.002, 0.005, 0.01, 0.02, 1.0], dtype=torch.float64)
    law = Mixture(torch.zeros(1, 5), deviations[None] ** 2)
    schedule = Flow(cleanest=0.01)
    x = law.sample(200, seed=12)
    found = log_prob(law.denoiser(schedule), x, noised(law, schedule))
    assert covered(found, law.log_density(x, ONE, NOTHING)) >= 0.95 and float(found.error.median()) > 0.1
    alpha, sigma = schedule(torch.tensor(0.01, dtype=torch.float64))
    x_t = law.sample(50, 13, float(alpha), float(sigma))
    sharp = log_prob(law.denoiser(schedule), x_t / alpha, noised(law, schedule), start=cleanest_time)
    truth = law.log_density(x_t, alpha, sigma) + 5 * alpha.log()
    assert covered(sharp, truth) >= 0.95 and float(sharp.error.median()) < 0.02


def pictures(seed: int) -> Mixture:
    """A law of 784 numbers like pictures: three clusters, each with its own 20 directions of nearly all variance."""
    generator = torch.Generator().manual_seed(seed)
    turns = torch.linalg.qr(torch.randn(3, 784, 784, dtype=torch.float64, generator=generator)).Q
    variances = 1e-4 * (0.6 * torch.randn(3, 784, dtype=torch.float64, generator=generator)).exp()
    variances[:, :20] = 8 / torch.arange(1, 21, dtype=torch.float64) ** 1.5
    means = 0.1 * torch.randn(3, 784, dtype=torch.float64, generator=generator)
    return Mixture(means, turns @ torch.diag_embed(variances) @ turns.mT)


@pytest.mark.parametrize(
    ("schedule", "count"),
    [
        (EDM(), 2),
        pytest.param(EDM(), 80, marks=pytest.mark.slow),
        pytest.param(Flow(), 60, marks=pytest.mark.slow),
        pytest.param(VE(sigma_min=0.002), 60, marks=pytest.mark.slow),
    ],
)
def test_of_784_dimensions_the_bar_is_below_a_twentieth_of_a_bit(schedule: Schedule, count: int) -> None:
    law, unit = pictures(0), 784 * math.log(2)
    x = law.sample(count, seed=14)
    parts = [
        log_prob(law.denoiser(schedule), part, noised(law, schedule), Hutchinson(SamplingRNG(0, range(i, i + 10))))
        if len(part) == 10
        else log_prob(law.denoiser(schedule), part, noised(law, schedule))
        for i, part in zip(range(0, count, 10), x.split(10))
    ]
    value, error = torch.cat([part.value for part in parts]), torch.cat([part.error for part in parts])
    inside = (value - law.log_density(x, ONE, NOTHING)).abs() <= error
    assert float(inside.double().mean()) >= 0.95
    assert float(error.max()) / unit <= 0.05 and float(error.mean()) / unit <= 0.03
    assert all(part.evaluations <= 400 and part.products <= 400 for part in parts)


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
    found = log_prob(denoise, x.float(), noised(law, Flow()))
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


def levels(x: Tensor, step: float) -> Tensor:
    """The nearest level of steps between -1 and 1."""
    return ((x + 1) / step).floor() * step - 1 + step / 2


def cells(law: Mixture, x: Tensor, step: float, alpha: Tensor, sigma: Tensor) -> Tensor:
    """log P of the cells of x (B, D) under a mixture of independent numbers, as the model ends: x_t / alpha."""
    deviation = (alpha**2 * law.variances + sigma**2).sqrt() / alpha
    side = [torch.special.ndtr((x[:, None] - law.means + half) / deviation) for half in (step / 2, -step / 2)]
    return ((side[0] - side[1]).log().sum(2) + law.weights.log()).logsumexp(1)


def test_bits_per_dimension_state_their_dequantisation() -> None:
    """256 levels in [-1, 1] cost 7 bits more than the density says; a broad Gaussian is nearly flat over a cell."""
    law, noise = Mixture(torch.zeros(1, 4), torch.full((1, 4), 0.25)), SamplingRNG(0, range(30))
    x = levels(law.sample(30, seed=11).clamp(-0.99, 0.99), 1 / 128)
    found = bits_per_dim(law.denoiser(Flow()), x, uniform_dequantisation(noise, 1 / 128))
    truth = -cells(law, x, 1 / 128, ONE, ONE / 1000) / (4 * math.log(2))
    assert found.dequantisation == "uniform over cells of 0.0078125: +7.0000 bits per dimension, 4 draws"
    torch.testing.assert_close(found.value, truth, rtol=0, atol=0.01)
    plain = bits_per_dim(law.denoiser(Flow()), x, no_dequantisation())
    truth = -law.log_density(x, ONE, NOTHING) / (4 * math.log(2))
    assert bool(((plain.value - truth).abs() <= plain.error).all()) and plain.dequantisation.startswith("none")
    drawn, _ = uniform_dequantisation(noise, 1 / 128).draw(law.denoiser(Flow()), x, 0)
    assert float((drawn - x).abs().max()) <= 1 / 256 and float((drawn - x).std()) > 0.25 / 128
    with pytest.raises(ValueError, match="at least two draws"):
        uniform_dequantisation(noise, 1 / 128, draws=1)


def test_the_fitted_dequantisation_knows_where_in_a_cell_the_model_is() -> None:
    """Data of exact levels, as a network sees them that was trained without added noise, and a smooth part beside."""
    step, schedule = 0.125, EDM(cleanest=0.01, noisiest=20.0)
    generator = torch.Generator().manual_seed(1)
    means = levels(1.8 * torch.rand(6, 4, dtype=torch.float64, generator=generator) - 0.9, step)
    variances = torch.tensor([0.0, 0.0, 0.02**2, 0.3**2], dtype=torch.float64).expand(6, 4)
    law, noise = Mixture(means, variances), SamplingRNG(0, range(20))
    x = levels(law.sample(20, seed=15).clamp(-0.99, 0.99), step)
    truth = -cells(law, x, step, ONE, ONE / 100) / (4 * math.log(2))
    denoise, prior = law.denoiser(schedule), noised(law, schedule)
    fitted = bits_per_dim(denoise, x, fitted_dequantisation(noise, step, draws=8), prior)
    flat = bits_per_dim(denoise, x, uniform_dequantisation(noise, step, draws=2), prior)
    assert float(((fitted.value - truth).abs() <= fitted.error).double().mean()) >= 0.9
    assert float((fitted.value - truth).abs().mean()) < 0.02 and float(fitted.error.mean()) < 0.05
    assert float((flat.value - truth).mean()) > 1


def test_with_probes_the_bound_is_the_mean_over_draws_and_inside_its_bar() -> None:
    law, step, unit = Mixture(torch.zeros(1, 40), torch.full((1, 40), 0.09)), 1 / 16, 40 * math.log(2)
    x = levels(law.sample(30, seed=16).clamp(-0.99, 0.99), step)
    found = bits_per_dim(law.denoiser(EDM()), x, uniform_dequantisation(SamplingRNG(0, range(30)), step, draws=8))
    edges = x[..., None] + step * (torch.linspace(0, 1, 101, dtype=torch.float64) - 0.5)
    bound = (edges**2 / 0.18 + math.log(2 * math.pi * 0.09) / 2).mean(2).sum(1) - 40 * math.log(step)
    inside = (found.value - bound / unit).abs() <= found.error
    assert float(inside.double().mean()) >= 0.9 and float(found.error.mean()) < 0.02
    assert found.evaluations > 8 * 200 and found.products > 8 * 200


def test_a_variational_dequantisation_is_a_draw_and_its_density() -> None:
    """With the true conditional law of the draw the bound is tight: log p(cell), whatever was drawn."""
    law = Mixture(torch.zeros(1, 1), torch.ones(1, 1))
    x = torch.linspace(-1.25, 1.25, 6, dtype=torch.float64)[:, None]  # cells of width 0.5
    mass = torch.special.ndtr(x + 0.25) - torch.special.ndtr(x - 0.25)

    def draw(denoise: Bound, x: Tensor, number: int) -> tuple[Tensor, Tensor]:
        drawn = torch.special.ndtri(torch.special.ndtr(x - 0.25) + 0.3 * mass)
        return drawn, law.log_density(drawn, ONE, NOTHING) - mass[:, 0].log()

    found = bits_per_dim(law.denoiser(Flow(cleanest=1e-5)), x, Dequantisation("variational", draw))
    torch.testing.assert_close(found.value, -mass[:, 0].log2(), rtol=1e-5, atol=1e-5)
