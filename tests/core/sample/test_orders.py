"""The order of convergence of every deterministic sampler, and that it has no floor."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from core.sample.deterministic import DETERMINISTIC
from core.sample.info import SamplerInfo
from core.sample.solvers.adams import deis
from core.sample.solvers.exponential import exponential_multistep
from core.sample.solvers.unipc import unipc
from core.schedule import VP, Flow, Schedule
from core.verify.mixture import Mixture
from core.verify.orders import SCHEDULES, Problem, extrapolate, full, interior, markdown, measure, order_of

FIXED = {name: info for name, info in DETERMINISTIC.items() if not info.adaptive}


@cache
def problem() -> Problem:
    return interior()


@cache
def whole(label: str) -> Problem:
    return full(SCHEDULES[label])


class Stretched(Problem):
    """The same problem on steps that grow and shrink by a factor of up to 25."""

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        place = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        place = place - 0.145 * (2 * torch.pi * place).sin()
        noisy, clean = self.angles.tan().log()
        return schedule.time((noisy + (clean - noisy) * place).exp())


def test_the_truth_is_the_closed_form_of_one_gaussian() -> None:
    # Along the flow of one Gaussian each principal component keeps its place in units of its own deviation.
    mixture = Mixture(torch.tensor([[0.7, -0.4]]), torch.tensor([[0.5, 2.0]]))
    found = interior(mixture)
    noisy, clean = ((a.cos() ** 2 * mixture.variances + a.sin() ** 2).sqrt() for a in found.angles)
    units = (found.start - found.angles[0].cos() * mixture.means) / noisy
    torch.testing.assert_close(found.end, found.angles[1].cos() * mixture.means + clean * units, rtol=0, atol=1e-12)


@pytest.mark.parametrize("label", ["VP", "VE", "EDM", "flow"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_claim_is_kept_on_every_schedule(name: str, label: str) -> None:
    row = measure(name, DETERMINISTIC[name], label, SCHEDULES[label], problem())
    assert row.measured == pytest.approx(row.claimed, abs=0.2)
    assert row.limit < 1e-9


def test_a_floor_would_be_seen() -> None:
    # Were times rounded, as where a solver casts them to integers, order and limit would both show it.
    truth = problem()

    class Rounded(Problem):
        def times(self, schedule: Schedule, steps: int) -> Tensor:
            times = super().times(schedule, steps)
            return torch.cat([times[:1], (times[1:] * 1000).round() / 1000])

    rounded = Rounded(truth.mixture, truth.angles, truth.interior, truth.start, truth.end)
    row = measure("dpmpp_3s", DETERMINISTIC["dpmpp_3s"], "flow", Flow(), rounded)
    assert row.limit > 1e-6
    assert row.measured < 1


@pytest.mark.parametrize("name", [n for n, info in FIXED.items() if info.order > 1 and n not in ("plms", "pndm")])
def test_orders_hold_on_steps_of_any_size(name: str) -> None:
    truth = problem()
    stretched = Stretched(truth.mixture, truth.angles, truth.interior, truth.start, truth.end)
    row = measure(name, DETERMINISTIC[name], "flow", Flow(), stretched)
    assert row.measured == pytest.approx(row.claimed, abs=0.25)


def test_third_order_needs_its_factor_of_two() -> None:
    classic = measure("classic", DETERMINISTIC["dpmpp_3m"], "VP", VP(), problem())
    exact = measure("exact", DETERMINISTIC["dpmpp_3m_exact"], "VP", VP(), problem())
    assert classic.measured == pytest.approx(2, abs=0.1)
    assert exact.measured == pytest.approx(3, abs=0.1)
    assert exact.smallest < classic.smallest / 50


@pytest.mark.parametrize("sampler", [partial(deis, start=None), partial(exponential_multistep, start=None)])
def test_a_multistep_method_is_no_better_than_its_start(sampler: partial) -> None:
    row = measure("cold", SamplerInfo(sampler, order=2, evaluations=1), "VP", VP(), problem())
    assert row.measured == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(("order", "correct", "expected"), [(1, True, 2), (1, False, 1), (3, False, 3)])
def test_the_corrector_gains_an_order(order: int, correct: bool, expected: int) -> None:
    info = SamplerInfo(partial(unipc, order=order, correct=correct), order=expected, evaluations=1)
    assert measure("unipc", info, "flow", Flow(), problem()).measured == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize("label", ["VE", "flow"])
@pytest.mark.parametrize("name", FIXED)
def test_the_path_from_pure_noise_to_clean_data_converges(name: str, label: str) -> None:
    whole_path = whole(label)
    errors = []
    for steps in (16, 64, 256):
        end, _ = whole_path.solve(FIXED[name].sampler, SCHEDULES[label], steps)
        errors.append(float((end - whole_path.end).abs().max()))
    power = 1 if FIXED[name].order == 1 else 1.4
    assert errors[2] < errors[0] / 16**power * 1.2
    assert errors[2] < (0.02 if FIXED[name].order == 1 else 6e-4)


def test_order_and_limit_are_read_from_any_series() -> None:
    steps = [8, 16, 32, 64]
    assert order_of(steps, [3 * n**-2.0 for n in steps]) == pytest.approx(2)
    ends = [torch.tensor(5 + n**-2.0 - 4 * n**-3.0 + n**-4.0, dtype=torch.float64) for n in steps]
    assert float(extrapolate(ends, 2)) == pytest.approx(5, abs=1e-12)


def test_the_page_has_a_line_for_each_sampler_and_interval() -> None:
    row = measure("euler", DETERMINISTIC["euler"], "VP", VP(), problem())
    page = markdown([row, replace(row, schedule="VE"), replace(row, interior=False)])
    assert "| euler | 1 | 1 | 1.00 | 1.00 |" in page
    assert page.count("| euler |") == 2
