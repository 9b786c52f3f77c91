"""Grids against diffusers' arrays, published golden values and closed forms; laws that hold on every schedule."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UnCLIPScheduler,
)
from torch import Tensor

from core.grid import (
    GRIDS,
    Grid,
    beta,
    between,
    exponential,
    karras,
    leading,
    linear_quadratic,
    linspace,
    polyexponential,
    quadratic,
    sgm_uniform,
    shifted,
    sigmas,
    stretched,
    times,
    trailing,
    whole,
)
from core.schedule import (
    EDM,
    VE,
    VP,
    Discrete,
    Flow,
    Schedule,
    linear_betas,
    log_snr,
    scaled_linear_betas,
    shift_from_mu,
    zero_terminal_snr,
)
from tests.support.schedules import CONTINUOUS

SD = Discrete(scaled_linear_betas())
SCHEDULES: dict[str, Schedule] = {
    "linear": Discrete(linear_betas()),
    "sd": SD,
    "zero-terminal": Discrete(zero_terminal_snr(scaled_linear_betas())),
    **CONTINUOUS,
}
OF_RATIOS = ("karras", "exponential", "log_snr", "polyexponential")


def ratios(schedule: Schedule, found: Tensor) -> Tensor:
    alpha, sigma = schedule(found)
    return sigma / alpha


def close(found: Tensor, expected: object, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.as_tensor(np.asarray(expected)).double(), rtol=tolerance, atol=tolerance)


def test_laws_hold_on_every_schedule_and_number_of_steps() -> None:
    broken = []
    for name, schedule in SCHEDULES.items():
        clean = schedule.time(torch.zeros((), dtype=torch.float64))
        for grid_name, grid in GRIDS.items():
            for steps in (1, 2, 3, 5, 30, 100):
                found = grid(schedule, steps)
                alpha, sigma = schedule(found)
                noisiest = found[0] == schedule.noisiest or grid_name == "leading"
                inside = bool(((found[:-1] > clean) & (found[:-1] <= schedule.noisiest)).all())
                sound = found.shape == (steps + 1,) and found.dtype == torch.float64 and bool((found.diff() < 0).all())
                exact = sigma[-1] == 0 and found[-1] == clean and bool((alpha + sigma).isfinite().all())
                if not (noisiest and inside and sound and exact):
                    broken.append((name, grid_name, steps, found))
    assert not broken, broken


def test_whole_indices_are_those_of_diffusers_for_every_number_of_steps() -> None:
    reference = DDIMScheduler(timestep_spacing="linspace")
    for spacing, grid in (("leading", leading), ("trailing", trailing), ("linspace", whole(linspace))):
        reference.register_to_config(timestep_spacing=spacing)
        for steps in range(2, 1001, 7):
            reference.set_timesteps(steps)
            expected = reference.timesteps.double()
            found = grid(SD, steps)
            assert torch.equal(found[:-1], expected[:steps]), (spacing, steps)
            assert found[-1] == -1


def test_their_trailing_grid_has_a_step_too_many_where_arange_rounds_up() -> None:
    """numpy's arange(1000, 0, -1000 / 61) has 62 entries: the 62nd is clean data, at index -1."""
    reference = DDIMScheduler(timestep_spacing="trailing")
    reference.set_timesteps(61)
    assert reference.timesteps.shape == (62,) and reference.timesteps[-1] == -1
    assert torch.equal(trailing(SD, 61), reference.timesteps.double())


def test_their_one_step_linspace_starts_at_clean_data_and_ours_at_noise() -> None:
    reference = EulerDiscreteScheduler(timestep_spacing="linspace")
    reference.set_timesteps(1)
    assert reference.timesteps.tolist() == [0.0]
    assert linspace(SD, 1).tolist() == [999.0, -1.0]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_euler_times_are_diffusers_floats(spacing: str) -> None:
    reference = EulerDiscreteScheduler(timestep_spacing=spacing, steps_offset=1 if spacing == "leading" else 0)
    grids: dict[str, Grid] = {"leading": partial(leading, offset=1), "trailing": trailing, "linspace": linspace}
    for steps in (2, 7, 10, 30, 50):
        reference.set_timesteps(steps)
        close(grids[spacing](SD, steps)[:-1], reference.timesteps, 1e-6)


def test_golden_table_times() -> None:
    offset = partial(leading, offset=1)
    assert offset(SD, 10).tolist() == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, -1]
    assert trailing(SD, 10).tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99, -1]
    assert whole(linspace)(SD, 10).tolist() == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0, -1]
    assert offset(SD, 30)[[0, 1, 2, 27, 28, 29]].tolist() == [958, 925, 892, 67, 34, 1]
    assert trailing(SD, 30)[[0, 1, 2, 27, 28, 29]].tolist() == [999, 966, 932, 99, 66, 32]
    assert whole(linspace)(SD, 30)[[0, 1, 2, 27, 28, 29]].tolist() == [999, 965, 930, 69, 34, 0]
    assert whole(linspace)(SD, 25)[[0, 1, 2, 3, 22, 23, 24]].tolist() == [999, 957, 916, 874, 83, 42, 0]
    assert whole(linspace)(SD, 7).tolist() == [999, 832, 666, 500, 333, 166, 0, -1]
    assert whole(sgm_uniform)(SD, 10).tolist() == [999, 899, 799, 699, 599, 500, 400, 300, 200, 100, -1]
    assert offset(SD, 1000)[0] == 999, "an offset is held inside the table"


def test_golden_ratios() -> None:
    found = ratios(SD, karras(SD, 10))
    close(found, [14.61465, 9.10294, 5.4784, 3.16861, 1.74942, 0.91408, 0.44692, 0.2014, 0.08191, 0.02917, 0], 1e-5)
    solver = ratios(SD, whole(sgm_uniform)(SD, 10))
    close(solver, [14.6146, 8.3028, 5.0878, 3.3211, 2.2765, 1.6183, 1.1644, 0.8328, 0.5717, 0.3439, 0], tolerance=5e-5)
    euler = ratios(SD, partial(leading, offset=1)(SD, 50))
    close(euler[[0, 1, -2]], [13.1204157, 11.6760502, 0.0413145], 1e-6)


def test_golden_flow_sigmas() -> None:
    # SD3 shifts its training sigmas, takes their end as the cleanest, and shifts again.
    twice_shifted = Flow(cleanest=3 * 0.001 / (1 + 2 * 0.001))
    found = shifted(linspace, 3.0)(twice_shifted, 28)
    close(found[[0, 1, 2, 14, 26, 27, 28]], [1.0, 0.987381, 0.974108, 0.737056, 0.110906, 0.008929, 0.0], 1e-6)
    close(shifted(linspace, 3.0)(twice_shifted, 4), [1.0, 0.8576923, 0.6021506, 0.0089286, 0.0], 1e-6)
    flux = shifted(trailing, shift_from_mu(4096))(Flow(), 28)
    close(flux[[0, 1, 2, 14, 27, 28]], [1.0, 0.988409, 0.976222, 0.759511, 0.104721, 0.0], 1e-6)


def test_flow_grids_are_diffusers_sigmas() -> None:
    for steps in (2, 5, 28):
        static = FlowMatchEulerDiscreteScheduler(shift=3.0)
        static.set_timesteps(steps)
        close(shifted(linspace, 3.0)(Flow(cleanest=static.sigma_min), steps), static.sigmas, 1e-6)
        dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        dynamic.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=0.63)
        close(shifted(trailing, math.exp(0.63))(Flow(), steps), dynamic.sigmas, 1e-6)
        terminal = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
        terminal.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=0.63)
        close(stretched(shifted(trailing, math.exp(0.63)), last=0.1)(Flow(), steps), terminal.sigmas, 1e-6)
        curved = FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True)
        curved.set_timesteps(steps)
        close(beta(Flow(cleanest=0.001), steps), curved.sigmas, 1e-6)


def test_ratio_grids_are_diffusers_sigmas() -> None:
    betas = scaled_linear_betas().numpy()
    for reference, grid in (
        (EulerDiscreteScheduler(trained_betas=betas, use_karras_sigmas=True), karras),
        (EulerDiscreteScheduler(trained_betas=betas, use_exponential_sigmas=True), exponential),
    ):
        for steps in (2, 10, 25):
            reference.set_timesteps(steps)
            found = grid(SD, steps)
            close(ratios(SD, found), reference.sigmas, 1e-5)
            torch.testing.assert_close(found[:-1], reference.timesteps.double(), rtol=0, atol=2e-3)
    for kind, grid in (("karras", karras), ("exponential", exponential)):
        edm = EDMEulerScheduler(sigma_schedule=kind)
        edm.set_timesteps(18)
        close(grid(EDM(), 18), edm.sigmas, 1e-5)


def test_dpm_solver_times_are_diffusers() -> None:
    reference = DPMSolverMultistepScheduler(timestep_spacing="linspace")
    for steps in (1, 2, 15, 20):
        reference.set_timesteps(steps)
        assert torch.equal(whole(sgm_uniform)(SD, steps)[:-1], reference.timesteps.double())


def test_unclip_times_are_diffusers() -> None:
    reference = UnCLIPScheduler()
    for steps in (7, 25):
        reference.set_timesteps(steps)
        assert torch.equal(whole(linspace)(SD, steps)[:-1], reference.timesteps.double())


def test_karras_is_equation_5_of_edm() -> None:
    found = karras(EDM(), 18)
    index = torch.arange(18, dtype=torch.float64)
    expected = (80 ** (1 / 7) + index / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(found[:-1], expected, rtol=1e-13, atol=0)
    assert found[-1] == 0


def test_exponential_grids_step_evenly_in_log_snr() -> None:
    for name in ("sd", "vp", "sub-vp", "ve", "edm"):
        schedule = SCHEDULES[name]
        steps = log_snr(schedule, exponential(schedule, 12)[:-1]).diff()
        torch.testing.assert_close(steps, steps.mean().expand(11), rtol=1e-9, atol=1e-9)
        curve = log_snr(schedule, polyexponential(schedule, 5, rho=2.0)[:-1])
        place = (curve - curve[-1]) / (curve[0] - curve[-1])
        close(place, [1, 9 / 16, 4 / 16, 1 / 16, 0], 1e-9)


def test_grids_of_ratios_start_at_pure_noise_where_the_ratio_is_infinite() -> None:
    for name in ("flow", "flow shifted", "zero-terminal", "continuous cosine", "trigonometric"):
        schedule = SCHEDULES[name]
        low = float(ratios(schedule, torch.tensor([schedule.cleanest], dtype=torch.float64)))
        for grid_name in OF_RATIOS:
            found = GRIDS[grid_name](schedule, 6)
            assert found[0] == schedule.noisiest and ratios(schedule, found)[0] == math.inf
            finite = ratios(schedule, found)[1:-1]
            assert bool((finite <= 1 / low).all()) and finite[-1].item() == pytest.approx(low, rel=1e-9)
        middle = ratios(schedule, exponential(schedule, 7))[3]
        assert middle.item() == pytest.approx(1, rel=1e-9), "the span is centred on equal signal and noise"


def test_grids_of_ratios_need_noise_at_their_clean_end() -> None:
    for grid_name in OF_RATIOS:
        for schedule in (Flow(cleanest=0.0), EDM(cleanest=0.0)):
            with pytest.raises(ValueError, match="use linspace"):
                GRIDS[grid_name](schedule, 5)
        with pytest.raises(ValueError, match="room above"):
            between(GRIDS[grid_name], 1.0, 0.8)(Flow(), 5)
    assert trailing(Flow(cleanest=0.0), 4).tolist() == [1, 0.75, 0.5, 0.25, 0]


def test_spacings_by_their_definition() -> None:
    flow = Flow(cleanest=0.0)
    close(quadratic(flow, 5), [1, 9 / 16, 4 / 16, 1 / 16, 0, 0], 1e-15)
    close(leading(flow, 4, offset=0), [0.75, 0.5, 0.25, 0.0, 0.0], 1e-15)
    close(linspace(VP(), 3), [1, (1 + 1e-3) / 2, 1e-3, 0], 1e-15)
    close(trailing(VE(cleanest=0.0), 4), [1, 0.75, 0.5, 0.25, -math.inf], 1e-15)
    # The arcsine law, Beta(1/2, 1/2), has quantiles sin^2(pi q / 2).
    quantile = torch.linspace(1, 0, 6, dtype=torch.float64)
    close(beta(flow, 6, alpha=0.5, beta=0.5)[:-1], (quantile * math.pi / 2).sin() ** 2, 1e-12)


def test_linear_quadratic_by_its_definition() -> None:
    for steps in (2, 5, 8, 25):
        small = steps // 2
        passed = 1 - linear_quadratic(Flow(), steps)
        torch.testing.assert_close(passed[: small + 1].diff(), torch.full((small,), 0.025 / small).double())
        growth = passed[small:].diff().diff()
        torch.testing.assert_close(growth, growth.mean().expand(len(growth)), rtol=1e-9, atol=1e-12)
        # The parabola leaves with the line's slope: its first step is one small step and half a growth.
        curve = (1 - 0.025 - 0.025 * (steps - small) / small) / (steps - small) ** 2
        torch.testing.assert_close(passed[small + 1] - passed[small], torch.tensor(0.025 / small + curve).double())
        assert passed[-1] == 1


def test_shift_is_the_shift_of_the_flow_schedule() -> None:
    """Shifting the grid of a plain flow visits the same sigmas as a plain grid on a shifted flow."""
    moved = ratios(Flow(), shifted(trailing, 2.5)(Flow(), 9))
    torch.testing.assert_close(moved, ratios(Flow(shift=2.5), trailing(Flow(shift=2.5), 9)), rtol=1e-12, atol=0)
    torch.testing.assert_close(moved[1:], 2.5 * ratios(Flow(), trailing(Flow(), 9))[1:], rtol=1e-12, atol=0)


def test_between_changes_the_span_only() -> None:
    high, low = SD.time(torch.tensor([10.0, 0.1], dtype=torch.float64)).tolist()
    found = ratios(SD, between(karras, high, low)(SD, 8))
    close(found, ratios(EDM(), karras(EDM(cleanest=0.1, noisiest=10.0), 8)), 1e-9)
    assert between(trailing, 500.0, 0.0)(SD, 3).tolist() == [500, 333, 166, -1]
    with pytest.raises(ValueError, match="end cleaner than it starts"):
        between(karras, 0.0, 10.0)


def test_grids_given_as_data() -> None:
    lcm = torch.tensor([999, 759, 499, 259])
    assert times(lcm)(SD, 4).tolist() == [999, 759, 499, 259, -1]
    assert times(torch.tensor([1.0, 0.5, 0.0]))(Flow(), 2).tolist() == [1, 0.5, 0]
    close(sigmas(torch.tensor([math.inf, 3.0, 1.0]))(Flow(), 3), [1, 0.75, 0.5, 0], 1e-15)
    close(ratios(SD, sigmas(torch.tensor([10.0, 2.0, 0.5, 0.0]))(SD, 3)), [10, 2, 0.5, 0], 1e-9)
    with pytest.raises(ValueError, match="has 4 steps, not 5"):
        times(lcm)(SD, 5)
    for wrong in (torch.tensor([0.1, 0.9]), torch.ones(2, 2), torch.tensor([1.0, math.nan])):
        with pytest.raises(ValueError, match="noisy to clean"):
            times(wrong)(Flow(), 2)
    with pytest.raises(ValueError, match="noisy to clean"):
        sigmas(torch.tensor([1.0, 2.0]))(EDM(), 2)


def test_bad_requests_are_one_clear_sentence() -> None:
    for grid in GRIDS.values():
        for steps in (0, -1, 2.0, True, "5", None):
            with pytest.raises(ValueError, match="whole number of at least 1"):
                grid(Flow(), steps)
    for grid in (leading, trailing):
        with pytest.raises(ValueError, match="do not fit a table of 1000"):
            grid(SD, 1001)
    with pytest.raises(ValueError, match="only the times of a Discrete"):
        whole(linspace)(Flow(), 3)
    with pytest.raises(ValueError, match="must be positive"):
        shifted(trailing, 0.0)
