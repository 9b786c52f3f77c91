"""Objectives against closed forms: every prediction minimises the same thing, weights are right to their limits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from core.cond import Cond
from core.denoiser import Denoiser, Estimate
from core.objective import (
    P2,
    Density,
    EDMWeight,
    LogitNormal,
    LogNormal,
    MinSNR,
    Mode,
    Objective,
    Offset,
    Sigmoid,
    Truncated,
    Uncertainty,
    UniformLogSNR,
    Weight,
    average,
    cosmap,
    epsilon,
    flow,
    independent,
    indices,
    optimal_transport,
    output_weight,
    per_log_snr,
    stratified,
    truncated_snr,
    uniform,
    unit,
    velocity,
)
from core.objective.bound import variational_bound
from core.prediction import X0, Epsilon, F, FlowVelocity, LearnedRange, Prediction, Score, V
from core.random import Stream, TrainingRNG
from core.schedule import EDM, VP, Cosine, Discrete, Flow, Schedule, linear_betas, log_snr

DRAW = TrainingRNG(3, range(6))
WEIGHTS: list[Weight] = [unit, epsilon, velocity, flow, truncated_snr, MinSNR(), P2(), EDMWeight(), Sigmoid()]


class Says(nn.Module):
    """A network whose x0 is 0.3 x_t + 0.1, whatever the prediction by which it says so."""

    def __init__(self, schedule: Schedule, prediction: Prediction) -> None:
        super().__init__()
        self.schedule, self.prediction = schedule, prediction

    def forward(self, scaled: Tensor, time: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = (value[:, None] for value in self.schedule(time))
        x_t = scaled / self.prediction.scale(alpha, sigma)
        silent = self.prediction.clean(x_t, torch.zeros_like(x_t), alpha, sigma)
        return (0.3 * x_t + 0.1 - silent) / self.prediction.gain(alpha, sigma)


def data(count: int = 6) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("schedule", [VP(), Cosine(), Flow(shift=2.0), EDM()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_prediction_minimises_the_same_thing(schedule: Schedule, weight: Weight) -> None:
    objective = Objective(LogNormal() if isinstance(schedule, EDM) else uniform, weight)
    losses = [
        objective(Denoiser(Says(schedule, p), schedule, p), data(), Cond(), DRAW).each
        for p in (X0(), Epsilon(), V(), FlowVelocity(), Score(), F(0.5))
    ]
    t = objective.times(schedule, stratified(DRAW))
    alpha, sigma = (value[:, None] for value in schedule(t))
    x_t = alpha * data() + sigma * DRAW.normal(data(), Stream.NOISE)
    wanted = weight(log_snr(schedule, t)) * ((0.3 * x_t + 0.1 - data()) ** 2).mean(1)
    for loss in losses:
        assert torch.allclose(loss, wanted, rtol=1e-9)


PLAIN: list[tuple[Prediction, Weight, Schedule]] = [
    (Epsilon(), epsilon, Discrete(linear_betas())),
    (X0(), unit, VP()),
    (V(), velocity, Cosine()),
    (FlowVelocity(), flow, Flow()),
    (F(0.5), EDMWeight(0.5), EDM()),
]


@pytest.mark.parametrize(("prediction", "weight", "schedule"), PLAIN)
def test_matching_weight_is_the_plain_error_of_the_output(
    prediction: Prediction, weight: Weight, schedule: Schedule
) -> None:
    """With DDPM's table, ``epsilon`` and whole indices this is DDPM's simple loss."""
    times: Density = indices if isinstance(schedule, Discrete) else LogNormal() if schedule == EDM() else uniform
    net = nn.Linear(4, 4).double()
    denoiser = Denoiser(Plain(net), schedule, prediction)
    loss = Objective(times, weight)(denoiser, data(), Cond(), DRAW)
    alpha, sigma = (value[:, None] for value in schedule(loss.t))
    noise = DRAW.normal(data(), Stream.NOISE)
    predicted = net(prediction.scale(alpha, sigma) * (alpha * data() + sigma * noise))
    wanted = nn.functional.mse_loss(predicted, prediction.target(data(), noise, alpha, sigma))
    assert torch.allclose(loss.mean, wanted, rtol=1e-12)
    if times is indices:
        assert torch.equal(loss.t, loss.t.round())


class Plain(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        out: Tensor = self.net(x)
        return out


def test_min_snr_is_right_for_every_prediction() -> None:
    """For v it is min(SNR, gamma) / (SNR + 1), which diffusers had wrong for a year."""
    value = torch.linspace(-9, 9, 50, dtype=torch.float64)
    snr = value.exp()
    alpha, sigma = value.sigmoid().sqrt(), (-value).sigmoid().sqrt()
    clamped = snr.clamp(max=5)
    for prediction, wanted in ((X0(), clamped), (Epsilon(), clamped / snr), (V(), clamped / (snr + 1))):
        assert torch.allclose(output_weight(MinSNR(5.0), prediction, alpha, sigma), wanted, rtol=1e-10)


def test_weights_have_their_limits_at_both_ends() -> None:
    alpha = torch.tensor([1.0, 0.0], dtype=torch.float64)
    sigma = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for weight, prediction, wanted in (
        (epsilon, Epsilon(), [1, 1]),
        (velocity, V(), [1, 1]),
        (flow, FlowVelocity(), [1, 1]),
        (EDMWeight(0.5), F(0.5), [1, 1]),
        (MinSNR(5.0), V(), [0, 0]),
        (MinSNR(5.0), Epsilon(), [0, 1]),
        (epsilon, V(), [1, 0]),
        (unit, V(), [0, 1]),
    ):
        found = output_weight(weight, prediction, alpha, sigma)
        assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float64), atol=1e-8), (weight, prediction)


def test_sigmoid_and_p2_on_epsilon_are_the_papers() -> None:
    value = torch.linspace(-9, 9, 50, dtype=torch.float64)
    alpha, sigma = value.sigmoid().sqrt(), (-value).sigmoid().sqrt()
    assert torch.allclose(output_weight(Sigmoid(1.5), Epsilon(), alpha, sigma), (1.5 - value).sigmoid())
    assert torch.allclose(output_weight(P2(0.5, 2.0), Epsilon(), alpha, sigma), (2 + value.exp()) ** -0.5)


U = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000


def test_densities_are_the_laws_they_say() -> None:
    ratio = LogNormal(-1.2, 1.2)(EDM(), U)
    assert stats.kstest(ratio.log().numpy(), stats.norm(-1.2, 1.2).cdf).statistic < 1e-4
    place = (LogitNormal(0.5, 0.8)(Flow(cleanest=0.0), U)).logit()
    assert stats.kstest(place.numpy(), stats.norm(0.5, 0.8).cdf).statistic < 1e-4
    table = indices(Discrete(linear_betas(10)), U)
    assert table.long().bincount().tolist() == [2000] * 10


def test_cosmap_gives_the_straight_path_the_cosine_log_snr() -> None:
    u = U[::100]
    assert torch.allclose(
        log_snr(Flow(cleanest=0.0), cosmap(Flow(cleanest=0.0), u)), log_snr(Cosine(cleanest=0.0), u), atol=1e-9
    )


def test_mode_is_a_monotone_map_with_the_papers_quantile() -> None:
    place = Mode(1.29)(Flow(cleanest=0.0), U)
    assert bool((place.diff() > 0).all())
    falling = 1 - U
    paper = 1 - falling - 1.29 * ((math.pi / 2 * falling).cos() ** 2 - 1 + falling)
    assert torch.allclose(place, paper)
    with pytest.raises(ValueError, match="scale"):
        Mode(2.0)


def test_density_per_log_snr_by_differentiation() -> None:
    u = U[500:-500:100]
    wide = per_log_snr(UniformLogSNR(-8.0, 12.0), VP(), u)
    assert torch.allclose(wide, torch.full_like(u, 1 / 20), rtol=1e-6)
    normal = per_log_snr(LogNormal(-1.0, 0.7), EDM(), u)
    value = log_snr(EDM(), LogNormal(-1.0, 0.7)(EDM(), u))
    wanted = torch.from_numpy(stats.norm(2.0, 1.4).pdf(value.numpy()))
    assert torch.allclose(normal, wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="whole indices"):
        per_log_snr(indices, Discrete(linear_betas()), u)


def test_an_integrand_does_not_depend_on_the_density() -> None:
    schedule, prediction = Cosine(cleanest=0.002, noisiest=0.998), Epsilon()
    rows = data(1).expand(len(U), -1)
    rng = TrainingRNG(0, [0] * len(U))
    means = []
    for times in (uniform, UniformLogSNR(), Mode(0.5)):
        objective = Objective(times, Sigmoid(0.0), importance_weighted=True)
        loss = objective(Denoiser(Says(schedule, prediction), schedule, prediction), rows, Cond(), rng, U)
        means.append(float(loss.mean))
    assert max(means) / min(means) < 1.001


def test_even_places_cover_the_range_for_any_cut_of_the_batch() -> None:
    whole = stratified(TrainingRNG(5, range(10**9, 10**9 + 64)))
    assert torch.equal(whole[16:32], stratified(TrainingRNG(5, range(10**9 + 16, 10**9 + 32))))
    counts = (whole * 16).long().bincount(minlength=16)
    assert counts.min() >= 3 and counts.max() <= 5
    assert not torch.equal(whole, stratified(TrainingRNG(6, range(10**9, 10**9 + 64))))
    many = independent(TrainingRNG(5, range(2000)))
    assert stats.kstest(many.numpy(), "uniform").pvalue > 1e-3


def test_transport_is_the_cheapest_pairing() -> None:
    x, noise = data(5), data(5).flip(0) * 0.7 + 0.2
    paired = optimal_transport(x, noise)
    best = min(((x - noise[list(order)]) ** 2).sum() for order in itertools.permutations(range(5)))
    assert torch.allclose(((x - paired) ** 2).sum(), best)


def test_offset_noise_has_the_covariance_of_an_offset() -> None:
    """The map is linear, so its matrix says it all: A A^T = I + scale^2 within a channel and 0 between channels."""
    offset, x = Offset(0.3), torch.zeros(12, 2, 2, 3, dtype=torch.float64)
    matrix = offset(x, torch.eye(12, dtype=torch.float64).view(12, 2, 2, 3)).view(12, 12).T
    expected = torch.eye(12, dtype=torch.float64) + 0.09 * torch.block_diag(*[torch.ones(6, 6).double()] * 2)
    torch.testing.assert_close(matrix @ matrix.T, expected, rtol=0, atol=1e-12)
    noise = torch.randn(3, 2, 5, dtype=torch.float64)
    assert torch.equal(Offset(0.0)(noise, noise), noise)


def test_a_share_of_a_density_is_between_its_quantiles() -> None:
    schedule = Discrete(linear_betas())
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert Truncated(indices, 0.0, 0.2)(schedule, u).unique().tolist() == list(range(200))
    assert Truncated(indices, 0.5, 1.0)(schedule, u).unique().tolist() == list(range(500, 1000))
    times = Truncated(LogNormal(), 0.25, 0.75)(EDM(), u)
    assert torch.equal(times, LogNormal()(EDM(), 0.25 + 0.5 * u))
    with pytest.raises(ValueError, match="quantiles"):
        Truncated(uniform, 0.5, 0.5)


def test_only_valid_positions_count() -> None:
    error = torch.arange(12.0).view(2, 3, 2)
    valid = torch.tensor([[True, True, False], [False, True, False]])
    assert average(error, valid).tolist() == [1.5, 8.5]
    with pytest.raises(ValueError, match="positions"):
        average(error, torch.ones(2, 4))


def test_learned_uncertainty_settles_at_the_log_of_the_loss() -> None:
    torch.manual_seed(0)
    uncertainty = Uncertainty(32)
    optimizer = torch.optim.Adam(uncertainty.parameters(), 0.1)
    value = torch.linspace(-6, 6, 64)
    error = 0.1 + value.sigmoid()
    for _ in range(400):
        expected = uncertainty(value)
        loss = (error / expected.exp() + expected).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (uncertainty(value) - error.log()).abs().max() < 0.05


def test_uncertainty_enters_the_loss() -> None:
    torch.manual_seed(0)
    objective = Objective(weight=flow, uncertainty=Uncertainty(8)).double()
    assert objective.uncertainty is not None
    nn.init.normal_(objective.uncertainty.linear.weight)
    loss = objective(Denoiser(Says(Flow(), V()), Flow(), V()), data(), Cond(), DRAW)
    expected = objective.uncertainty(log_snr(Flow(), loss.t))
    assert torch.allclose(loss.mean, (loss.each / expected.exp() + expected).mean())


TABLE = Discrete(linear_betas(50, 1e-3, 0.1))


def _bound(t: float, mix: Tensor, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    times = torch.full((6,), t, dtype=torch.float64)
    x = data().clamp(-1, 1)
    alpha, sigma = (value[:, None] for value in TABLE(times))
    x_t = alpha * x + sigma * DRAW.normal(x, Stream.NOISE)
    return variational_bound(TABLE, x, x_t, times, Estimate(clean, mix)), x, x_t


def test_bound_is_the_divergence_of_the_gaussians() -> None:
    t, mix, clean = 20, torch.full((6, 4), 0.3, dtype=torch.float64), data() * 0.5
    found, x, x_t = _bound(t, mix, clean)
    bars = torch.cat([torch.ones(1, dtype=torch.float64), TABLE.alpha_bar])
    bar, before = bars[t + 1], bars[t]
    beta = 1 - bar / before
    narrow = beta * (1 - before) / (1 - bar)

    def mean(start: Tensor) -> Tensor:
        return before.sqrt() * beta / (1 - bar) * start + (1 - beta).sqrt() * (1 - before) / (1 - bar) * x_t

    variance = (0.3 * beta.log() + 0.7 * narrow.log()).exp()
    true = torch.distributions.Normal(mean(x), narrow.sqrt())
    model = torch.distributions.Normal(mean(clean), variance.sqrt())
    wanted = torch.distributions.kl_divergence(true, model).mean(1) / math.log(2)
    assert torch.allclose(found, wanted, rtol=1e-6)


def test_bound_trains_the_variance_and_not_the_mean() -> None:
    mix = torch.full((6, 4), 0.3, dtype=torch.float64, requires_grad=True)
    clean = (data() * 0.5).requires_grad_()
    _bound(20, mix, clean)[0].sum().backward()
    assert clean.grad is None and mix.grad is not None and bool((mix.grad != 0).all())


def test_last_step_is_the_likelihood_of_bytes() -> None:
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1)[:, None]
    times = torch.zeros(256, dtype=torch.float64)
    estimate = Estimate(torch.full_like(levels, 0.2), torch.full_like(levels, 0.5))
    bits = variational_bound(TABLE, levels, levels, times, estimate)
    assert abs((2**-bits).sum().item() - 1) < 1e-6


def test_hybrid_loss_adds_the_bound() -> None:
    net = Plain(nn.Linear(4, 8)).double()
    denoiser = Denoiser(net, TABLE, LearnedRange(Epsilon()))
    plain = Objective(indices, epsilon)(denoiser, data(), Cond(), DRAW).mean
    hybrid = Objective(indices, epsilon, bound=0.05)(denoiser, data(), Cond(), DRAW)
    alpha, sigma = (value[:, None] for value in TABLE(hybrid.t))
    x_t = alpha * data() + sigma * DRAW.normal(data(), Stream.NOISE)
    estimate = denoiser.from_output(x_t, hybrid.t, denoiser.output(x_t, hybrid.t, Cond()))
    bound = variational_bound(TABLE, data(), x_t, hybrid.t, estimate)
    assert torch.allclose(hybrid.mean, plain + 0.05 * bound.mean())
    with pytest.raises(ValueError, match="Discrete"):
        Objective(bound=1.0)(Denoiser(net, VP(), LearnedRange(V())), data(), Cond(), DRAW)


@pytest.mark.parametrize("prediction", [X0(), V(), FlowVelocity()])
def test_an_auxiliary_loss_is_of_x0_as_it_is_estimated(prediction: Prediction) -> None:
    schedule = Cosine() if not isinstance(prediction, FlowVelocity) else Flow()
    denoiser, x = Denoiser(Says(schedule, prediction), schedule, prediction), torch.randn(6, 3).double()
    valid = torch.ones(6, 3, dtype=torch.bool)

    def near(clean: Tensor, truth: Tensor, exists: Tensor | None) -> Tensor:
        assert exists is valid and truth is x
        return 2 * ((clean - 0.1) / 0.3).square().mean(1)  # of x_t, which the network's x0 gives back

    plain = Objective()(denoiser, x, Cond(valid=valid), DRAW)
    both = Objective(auxiliary_loss=near)(denoiser, x, Cond(valid=valid), DRAW)
    alpha, sigma = (value[:, None] for value in schedule(plain.t))
    x_t = alpha * x + sigma * DRAW.normal(x, Stream.NOISE)
    torch.testing.assert_close(both.mean - plain.mean, 2 * x_t.square().mean(), rtol=1e-6, atol=1e-9)
    assert torch.equal(both.each, plain.each)
