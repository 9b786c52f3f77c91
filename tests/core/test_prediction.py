"""Predictions: each is inverted by ``clean``, has the gain it claims, and says what its paper says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.prediction import X0, Epsilon, F, FlowVelocity, LearnedRange, Prediction, Score, V
from core.schedule import (
    VP,
    Discrete,
    Flow,
    Schedule,
    Trigonometric,
    linear_betas,
    scaled_linear_betas,
    zero_terminal_snr,
)
from tests.support.schedules import CONTINUOUS

PREDICTIONS: dict[str, Prediction] = {
    "epsilon": Epsilon(),
    "x0": X0(),
    "v": V(),
    "velocity": FlowVelocity(),
    "score": Score(),
    "f": F(),
    "f of unit data": F(sigma_data=1.0),
}
SCHEDULES: dict[str, Schedule] = {
    "linear": Discrete(linear_betas()),
    "zero-terminal": Discrete(zero_terminal_snr(scaled_linear_betas())),
    **CONTINUOUS,
}
NEED_SIGNAL = ("epsilon", "score")  # at alpha = 0 they say nothing of x0


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    return (0.5 * x).to(dtype), noise.to(dtype)


def levels(schedule: Schedule, count: int = 23) -> list[tuple[Tensor, Tensor]]:
    times = torch.linspace(schedule.cleanest, schedule.noisiest, count, dtype=torch.float64)
    return list(zip(*(value.unbind() for value in schedule(times))))


def test_clean_of_target_is_the_data_at_every_level() -> None:
    x, noise = data()
    for schedule_name, schedule in SCHEDULES.items():
        for name, prediction in PREDICTIONS.items():
            for alpha, sigma in levels(schedule):
                if alpha == 0 and name in NEED_SIGNAL:
                    continue
                target = prediction.target(x, noise, alpha, sigma)
                found = prediction.clean(alpha * x + sigma * noise, target, alpha, sigma)
                # Where one must divide by alpha, the rounding of x_t is read back amplified by sigma / alpha.
                amplified = float(sigma / alpha) if name in NEED_SIGNAL else 0.0
                error = float((found - x).abs().max())
                assert error < 1e-12 + 1e-15 * amplified, (name, schedule_name, alpha, error)


def test_clean_data_is_exact_at_sigma_zero() -> None:
    x, noise = data()
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for name, prediction in PREDICTIONS.items():
        if name == "score":
            continue
        target = prediction.target(x, noise, one, zero)
        assert bool(target.isfinite().all())
        torch.testing.assert_close(prediction.clean(x, target, one, zero), x, rtol=1e-15, atol=0, msg=name)
        if name != "x0":  # x0 says what the data is; the others have nothing left to say
            assert torch.equal(prediction.clean(x, noise, one, zero), x)


def test_where_a_prediction_says_nothing_it_says_so() -> None:
    x, noise = data()
    one, zero = torch.ones(()), torch.zeros(())
    for prediction in (Epsilon(), Score()):
        with pytest.raises(ValueError, match="does not determine x0 at alpha = 0"):
            prediction.clean(noise, noise, zero, one)
        with pytest.raises(ValueError, match="use v, x0, velocity or F"):
            prediction.clean(noise[:2], noise[:2], torch.tensor([0.5, 0.0]), torch.ones(2))
    with pytest.raises(ValueError, match="infinite at sigma = 0"):
        Score().target(x, noise, one, zero)


def test_gain_is_the_derivative_of_clean() -> None:
    x, noise = data()
    for name, prediction in PREDICTIONS.items():
        for schedule in SCHEDULES.values():
            for alpha, sigma in levels(schedule)[:-1]:
                output = noise.clone().requires_grad_()
                clean = prediction.clean(alpha * x + sigma * noise, output, alpha, sigma)
                (slope,) = torch.autograd.grad(clean.sum(), output)
                torch.testing.assert_close(slope, prediction.gain(alpha, sigma).expand(64), rtol=1e-9, atol=0, msg=name)


def test_float32_keeps_its_precision() -> None:
    """x0 is read back within a few units in the last place, times the noise-to-signal ratio where one must divide."""
    x, noise = data(torch.float32)
    for name, prediction in PREDICTIONS.items():
        for schedule in SCHEDULES.values():
            for alpha, sigma in levels(schedule)[:-1]:
                target = prediction.target(x, noise, alpha, sigma)
                assert target.dtype == torch.float32
                found = prediction.clean(alpha * x + sigma * noise, target, alpha, sigma)
                amplified = float(sigma / alpha) if name in NEED_SIGNAL else 1.0
                assert (found - x).abs().max() < 2e-6 * max(1.0, amplified), (name, schedule, alpha)


def test_targets_by_their_papers() -> None:
    x, noise = data()
    alpha, sigma = VP()(torch.tensor(0.4, dtype=torch.float64))
    assert torch.equal(Epsilon().target(x, noise, alpha, sigma), noise)
    assert torch.equal(X0().target(x, noise, alpha, sigma), x)
    torch.testing.assert_close(V().target(x, noise, alpha, sigma), alpha * noise - sigma * x, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(Score().target(x, noise, alpha, sigma), -noise / sigma)
    assert torch.equal(FlowVelocity().target(x, noise, alpha, sigma), noise - x)


def test_v_is_the_velocity_of_the_circle_and_flow_of_the_line() -> None:
    """On TrigFlow and on the straight path the targets are d x_t / dt (2202.00512 appendix D; 2209.03003)."""
    x, noise = data()
    for schedule, prediction in ((Trigonometric(), V()), (Flow(), FlowVelocity())):
        t = torch.tensor(0.3, dtype=torch.float64)
        path = torch.func.jvp(lambda t: torch.stack(schedule(t)), (t,), (torch.ones_like(t),))[1]  # noqa: B023
        alpha, sigma = schedule(t)
        expected = path[0] * x + path[1] * noise
        torch.testing.assert_close(prediction.target(x, noise, alpha, sigma), expected, rtol=1e-13, atol=1e-14)


def test_f_has_the_coefficients_of_edm() -> None:
    """Table 1 of 2206.00364: c_skip, c_out, c_in; and the loss weight is 1 / c_out^2 (equation 8)."""
    sigma = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)
    one, zero = torch.ones_like(sigma), torch.zeros_like(sigma)
    data_deviation = 0.5
    prediction = F(sigma_data=data_deviation)
    skip = data_deviation**2 / (sigma**2 + data_deviation**2)
    out = sigma * data_deviation / (sigma**2 + data_deviation**2).sqrt()
    torch.testing.assert_close(prediction.clean(one, zero, one, sigma), skip, rtol=1e-13, atol=0)
    torch.testing.assert_close(prediction.clean(zero, one, one, sigma), out, rtol=1e-13, atol=0)
    torch.testing.assert_close(prediction.gain(one, sigma), out, rtol=1e-13, atol=0)
    torch.testing.assert_close(prediction.scale(one, sigma), 1 / (sigma**2 + data_deviation**2).sqrt())


def test_f_has_unit_variance_in_and_out_on_every_path() -> None:
    for schedule in SCHEDULES.values():
        for alpha, sigma in levels(schedule):
            prediction, deviation, one, zero = F(0.7), 0.7, torch.ones_like(alpha), torch.zeros_like(alpha)
            size = (alpha * deviation).square() + sigma.square()
            assert (prediction.scale(alpha, sigma).square() * size).item() == pytest.approx(1, rel=1e-12)
            of_x = prediction.target(one, zero, alpha, sigma)
            of_noise = prediction.target(zero, one, alpha, sigma)
            assert ((of_x * deviation) ** 2 + of_noise**2).item() == pytest.approx(1, rel=1e-12)


def test_f_on_a_flow_is_f_on_edm() -> None:
    """Any path is EDM's, scaled: at equal sigma / alpha the same output means the same x0."""
    x, noise = data()
    ratio = torch.tensor(1.7, dtype=torch.float64)
    one = torch.ones_like(ratio)
    expected = F().clean(x + ratio * noise, noise, one, ratio)
    for schedule in SCHEDULES.values():
        alpha, sigma = schedule(schedule.time(ratio))
        torch.testing.assert_close(
            F().clean(alpha * x + sigma * noise, noise, alpha, sigma), expected, rtol=1e-9, atol=1e-9
        )


def test_score_of_gaussian_data_gives_its_posterior_mean() -> None:
    """Tweedie: with data N(m, s^2), the score of x_t gives E[x0 | x_t] = m + alpha s^2 (x_t - alpha m) / var(x_t)."""
    mean, deviation = 0.3, 0.8
    x_t = torch.linspace(-3, 3, 9, dtype=torch.float64)
    for schedule in SCHEDULES.values():
        for alpha, sigma in levels(schedule)[:-1]:
            variance = (alpha * deviation) ** 2 + sigma**2
            score = -(x_t - alpha * mean) / variance
            expected = mean + alpha * deviation**2 * (x_t - alpha * mean) / variance
            found = Score().clean(x_t, score, alpha, sigma)
            ratio = float((sigma / alpha) ** 2)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 + 1e-15 * ratio + 1e-12 / float(alpha))
            # -sigma times the score is the expected noise, so epsilon agrees.
            noise = Epsilon().clean(x_t, -sigma * score, alpha, sigma)
            torch.testing.assert_close(noise, expected, rtol=0, atol=1e-13 + 1e-15 * ratio + 1e-12 / float(alpha))


def test_learned_range_splits_channels_and_maps_v_to_a_fraction() -> None:
    output = torch.arange(12.0).view(1, 4, 3) / 11 * 2 - 1
    mean, mix = LearnedRange().split(output)
    assert torch.equal(mean, output[:, :2])
    torch.testing.assert_close(mix, (output[:, 2:] + 1) / 2)
    assert mix.max() == 1
    with pytest.raises(ValueError, match="even number of output channels, not 3"):
        LearnedRange().split(torch.zeros(1, 3, 2))


def test_scale_is_one_except_for_f() -> None:
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    for name, prediction in PREDICTIONS.items():
        expected = 1 / math.hypot(0.6 * prediction.sigma_data, 0.8) if isinstance(prediction, F) else 1.0
        assert prediction.scale(alpha, sigma).item() == pytest.approx(expected, rel=1e-6), name
