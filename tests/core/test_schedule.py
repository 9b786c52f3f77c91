"""Schedules: published tables, closed forms, exact ends, and ``time`` as the inverse of sigma / alpha."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr
from torch import Tensor

from core.schedule import (
    EDM,
    VE,
    VP,
    Cosine,
    Discrete,
    Flow,
    Schedule,
    SubVP,
    Trigonometric,
    cosine_betas,
    linear_betas,
    log_snr,
    scaled_linear_betas,
    shift_from_mu,
    sigmoid_betas,
    signal_and_noise,
    zero_terminal_snr,
)
from tests.support.schedules import CONTINUOUS

TABLES: dict[str, Discrete] = {
    "linear": Discrete(linear_betas()),
    "scaled-linear": Discrete(scaled_linear_betas()),
    "cosine": Discrete(cosine_betas()),
    "sigmoid": Discrete(sigmoid_betas()),
    "zero-terminal": Discrete(zero_terminal_snr(scaled_linear_betas())),
    "of two": Discrete(torch.tensor([0.1, 0.7])),
    "of two, to pure noise": Discrete(torch.tensor([0.1, 1.0])),
}
SCHEDULES: dict[str, Schedule] = {
    **TABLES,
    **CONTINUOUS,
    "continuous cosine shifted": Cosine(shift=0.25),
}
PURE_NOISE = [name for name in SCHEDULES if any(word in name for word in ("zero", "pure", "flow", "contin", "trig"))]


def f64(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def inside(schedule: Schedule, count: int = 501) -> Tensor:
    return torch.linspace(schedule.cleanest, schedule.noisiest, count, dtype=torch.float64)


def test_golden_tables() -> None:
    golden = {
        "linear": [0.99989998, 0.99978006, 0.07858723, 4.0358304e-05],
        "scaled-linear": [0.99914998, 0.99829602, 0.27766943, 0.00466009508],
        "cosine": [0.99995869, 0.99991256, 0.49384347, 2.42873e-09],
    }
    for name, values in golden.items():
        # The published figures were accumulated in float32.
        torch.testing.assert_close(TABLES[name].alpha_bar[[0, 1, 499, 999]], f64(values), rtol=2e-5, atol=1e-8)
    assert cosine_betas()[-1] == 0.999
    rescaled = TABLES["zero-terminal"].alpha_bar
    torch.testing.assert_close(rescaled[[0, 499, 998]], f64([0.99914998, 0.242359, 1.96796e-07]), rtol=1e-5, atol=1e-8)
    assert rescaled[999] == 0
    alpha, sigma = TABLES["scaled-linear"](f64([0, 999]))
    torch.testing.assert_close(sigma / alpha, f64([0.02916753, 14.6146469]), rtol=2e-5, atol=0)


def test_tables_are_diffusers() -> None:
    for name, ours in (
        ("linear", linear_betas()),
        ("scaled_linear", scaled_linear_betas(first=1e-4, last=0.02)),
        ("squaredcos_cap_v2", cosine_betas()),
        ("sigmoid", sigmoid_betas()),
    ):
        theirs = DDPMScheduler(beta_schedule=name).betas.double()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    theirs = rescale_zero_terminal_snr(scaled_linear_betas()).double()
    torch.testing.assert_close(zero_terminal_snr(scaled_linear_betas()), theirs, rtol=1e-9, atol=1e-12)


def test_clean_data_and_pure_noise_are_exact() -> None:
    for name, schedule in SCHEDULES.items():
        for dtype in (torch.float64, torch.float32):
            clean = schedule.time(torch.zeros((), dtype=dtype))
            alpha, sigma = schedule(clean)
            assert (alpha, sigma) == (1, 0) and clean.dtype == alpha.dtype == sigma.dtype == dtype, name
            alpha, sigma = schedule(torch.tensor(schedule.noisiest, dtype=dtype))
            if name in PURE_NOISE:
                assert (alpha, sigma) == (0, 1), name
                end = schedule.time(torch.tensor(math.inf, dtype=dtype))
                assert end == torch.tensor(schedule.noisiest, dtype=dtype), name
            else:
                assert alpha > 0 and torch.isfinite(sigma), name


def test_time_inverts_the_ratio() -> None:
    for name, schedule in SCHEDULES.items():
        t = inside(schedule)
        alpha, sigma = schedule(t)
        torch.testing.assert_close(schedule.time(sigma / alpha), t, rtol=1e-9, atol=1e-9, msg=name)
        # And the other way: the ratio at the time of a ratio, over the whole range that the schedule has.
        low, high = float((sigma / alpha)[0]), min(float((sigma / alpha)[-1]), 1e6)
        ratio = torch.logspace(math.log10(low), math.log10(high), 301, dtype=torch.float64).clamp(low, high)
        alpha, sigma = schedule(schedule.time(ratio))
        tolerance = 1e-12 / min(1.0, float(alpha.min()))  # where alpha is small, t is near an end and cannot tell more
        torch.testing.assert_close(sigma / alpha, ratio, rtol=max(tolerance, 1e-9), atol=0, msg=name)


def test_noise_grows_with_time() -> None:
    for name, schedule in SCHEDULES.items():
        assert bool((log_snr(schedule, inside(schedule)).diff() < 0).all()), name


def test_shape_and_precision_are_those_of_the_time() -> None:
    for schedule in SCHEDULES.values():
        middle = (schedule.cleanest + schedule.noisiest) / 2
        for t in (torch.tensor(middle), torch.full((3,), middle), torch.full((2, 3), middle, dtype=torch.float64)):
            for value in (*schedule(t), schedule.time(torch.ones_like(t))):
                assert value.shape == t.shape and value.dtype == t.dtype


def test_float32_is_accurate() -> None:
    for name, schedule in SCHEDULES.items():
        t = inside(schedule).float()
        for value, exact in zip(schedule(t), schedule(t.double())):
            torch.testing.assert_close(value.double(), exact, rtol=4e-5, atol=1e-7, msg=name)
            away = slice(5, -5)
            torch.testing.assert_close(value[away].double(), exact[away], rtol=4e-6, atol=0, msg=name)


def test_table_is_exact_at_its_entries_and_smooth_between_them() -> None:
    for name, table in TABLES.items():
        alpha, sigma = table(torch.arange(table.steps, dtype=torch.float64))
        torch.testing.assert_close(alpha**2, table.alpha_bar, rtol=1e-12, atol=0, msg=name)
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=1e-14, atol=0, msg=name)
    entry = torch.arange(1, 998, 50, dtype=torch.float64)
    table = TABLES["linear"]
    halfway = (log_snr(table, entry) + log_snr(table, entry + 1)) / 2
    torch.testing.assert_close(log_snr(table, entry + 0.5), halfway, rtol=1e-12, atol=1e-12)


def test_table_reaches_its_infinite_ends_linearly() -> None:
    alpha, sigma = TABLES["linear"](f64([-1, -0.75, -0.5, -0.25, 0]))
    ratio = sigma / alpha
    torch.testing.assert_close(ratio, f64([0, 0.25, 0.5, 0.75, 1]) * ratio[-1], rtol=1e-12, atol=0)
    alpha, sigma = TABLES["zero-terminal"](f64([998, 998.25, 998.5, 998.75, 999]))
    ratio = alpha / sigma
    torch.testing.assert_close(ratio, f64([1, 0.75, 0.5, 0.25, 0]) * ratio[0], rtol=1e-9, atol=0)


def test_table_holds_times_at_its_ends() -> None:
    table = TABLES["linear"]
    assert torch.equal(torch.stack(table(f64([-5, 5000]))), torch.stack(table(f64([-1, 999]))))
    assert table.time(f64(1e9)) == 999


def test_table_rejects_what_is_no_table() -> None:
    for wrong in ([0.1], [[0.1, 0.2]], [0.1, 0.0], [0.1, 1.2], [1.0, 0.5], [0.1, math.nan]):
        with pytest.raises(ValueError, match="1-d table of at least two numbers"):
            Discrete(torch.tensor(wrong))


def test_vp_solves_its_sde() -> None:
    """d log alpha / dt = -beta(t) / 2 and, preserving variance, d sigma^2 / dt = beta(t) (1 - sigma^2)."""
    schedule = VP(beta_min=0.2, beta_max=15.0)
    t = inside(schedule).requires_grad_()
    rate = 0.2 + t.detach() * (15.0 - 0.2)
    alpha, sigma = schedule(t)
    (slope,) = torch.autograd.grad(alpha.log().sum(), t, retain_graph=True)
    torch.testing.assert_close(slope, -rate / 2, rtol=1e-10, atol=0)
    (slope,) = torch.autograd.grad((sigma**2).sum(), t)
    torch.testing.assert_close(slope, rate * (1 - sigma.detach() ** 2), rtol=1e-9, atol=1e-12)


def test_continuous_schedules_by_their_equations() -> None:
    t = f64([0.001, 0.1, 0.5, 0.9, 1.0])
    alpha, sigma = VP()(t)
    torch.testing.assert_close(alpha, (-(t**2) * 19.9 / 4 - 0.1 * t / 2).exp(), rtol=1e-13, atol=0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(5).double(), rtol=1e-14, atol=0)
    sub_alpha, sub_sigma = SubVP()(t)
    torch.testing.assert_close(sub_alpha, alpha, rtol=1e-14, atol=0)
    torch.testing.assert_close(sub_sigma, sigma**2, rtol=1e-13, atol=0)
    alpha, sigma = VE()(t)
    assert bool((alpha == 1).all())
    torch.testing.assert_close(sigma, 0.01 * 5000.0**t, rtol=1e-13, atol=0)
    assert torch.equal(torch.stack(EDM()(t)), torch.stack([torch.ones_like(t), t]))
    assert torch.equal(torch.stack(Flow()(t)), torch.stack([1 - t, t]))
    alpha, sigma = Flow(shift=3.0)(t)
    torch.testing.assert_close(sigma, 3 * t / (1 + 2 * t), rtol=1e-14, atol=0)
    torch.testing.assert_close(alpha, 1 - sigma, rtol=1e-13, atol=1e-16)
    alpha, sigma = Cosine()(t[:-1])
    angle = t[:-1] * math.pi / 2
    torch.testing.assert_close(torch.stack([alpha, sigma]), torch.stack([angle.cos(), angle.sin()]), rtol=1e-13, atol=0)
    alpha, sigma = Trigonometric()(t)
    torch.testing.assert_close(torch.stack([alpha, sigma]), torch.stack([t.cos(), t.sin()]), rtol=1e-13, atol=0)


def test_shifts_move_log_snr() -> None:
    t = inside(Flow())[:-1]
    for shift in (0.25, 1.0, 4.0):
        for plain, moved, amount in (
            (Cosine(), replace(Cosine(), shift=shift), 2 * math.log(shift)),
            (Flow(), replace(Flow(), shift=shift), -2 * math.log(shift)),
        ):
            torch.testing.assert_close(log_snr(moved, t), log_snr(plain, t) + amount, rtol=1e-9, atol=1e-9)


def test_ve_golden_levels() -> None:
    schedule = VE(sigma_min=0.01, sigma_max=1348.0)
    _, sigma = schedule(f64([0, 1 / 999, 1]))
    torch.testing.assert_close(sigma, f64([0.01, 0.010118932, 1348]), rtol=1e-6, atol=0)


def test_flux_shift() -> None:
    for tokens, mu in ((256, 0.5), (1024, 0.63), (4096, 1.15)):
        assert shift_from_mu(tokens) == pytest.approx(math.exp(mu), rel=1e-12)


def test_a_fine_table_is_the_continuous_schedule() -> None:
    """DDPM's linear betas are VP with beta(t) / steps: index i of N lies at t = (i + 1) / N."""
    steps = 100_000
    table = Discrete(torch.linspace(0.1 / steps, 20 / steps, steps))
    index = torch.tensor([999.0, 49_999.0, 99_999.0], dtype=torch.float64)
    expected = log_snr(VP(), (index + 1) / steps)
    torch.testing.assert_close(log_snr(table, index), expected, rtol=2e-3, atol=2e-3)


def test_signal_and_noise_of_any_log_snr() -> None:
    value = f64([-math.inf, -600, -20, 0, 20, 600, math.inf])
    alpha, sigma = signal_and_noise(value)
    torch.testing.assert_close(alpha[[0, 3, 6]], f64([0, 0.5**0.5, 1]), rtol=1e-15, atol=0)
    torch.testing.assert_close(sigma, alpha.flip(0), rtol=1e-15, atol=0)
    torch.testing.assert_close(2 * (alpha.log() - sigma.log())[1:-1], value[1:-1], rtol=1e-9, atol=1e-12)
