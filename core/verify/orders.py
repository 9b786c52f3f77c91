"""Certificates: every deterministic sampler's order of convergence, measured against a closed form.

The denoiser of a Gaussian mixture is exact, and so is, to 1e-13, the solution of its probability-flow ODE. On the
normalised path ``y = x / hypot(alpha, sigma)`` with angle a = atan(sigma / alpha) that solution is the same for every
schedule,

    dy / da = (cos(a) y - x0(y, a)) / sin(a),

and a sampler on any schedule is compared with it: the error at a doubling number of steps falls with the claimed
order, and its limit by Richardson's extrapolation is the solution, with no floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.denoiser import Bound, Estimate
from core.random import SamplingRNG
from core.sample.info import SamplerInfo
from core.sample.step import Sampler, run
from core.schedule import EDM, VE, VP, Discrete, Flow, Schedule, linear_betas
from core.verify.mixture import Mixture

SCHEDULES: dict[str, Schedule] = {
    "VP": VP(),
    "VE": VE(),
    "EDM": EDM(),
    "flow": Flow(),
    "discrete": Discrete(linear_betas()),
}
STEPS = (16, 32, 64, 128, 256, 512)
TOLERANCES = (1e-6, 1e-8, 1e-10, 1e-11, 1e-12)
ROUNDING = 2e-13  # errors below this are float64's, and say nothing of an order


@dataclass(frozen=True)
class Row:
    """What was measured of a sampler on a schedule."""

    sampler: str
    schedule: str
    interior: bool  # or the full interval
    claimed: int
    measured: float
    evaluations: int  # a step
    smallest: float  # the smallest error reached, the largest over samples and dimensions
    limit: float  # the error of the limit, by Richardson's extrapolation; of an adaptive sampler the smallest error


@dataclass(frozen=True)
class Problem:
    """Samples of a mixture at one angle of the normalised path, and where the ODE takes them."""

    mixture: Mixture
    angles: Tensor  # (2,), noisy and clean
    interior: bool
    start: Tensor  # (B, D)
    end: Tensor  # (B, D)

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        """steps + 1 times, equally spaced in log-SNR or, where that is infinite, in the angle."""
        if self.interior:
            ends = self.angles.tan().log().tolist()
            return schedule.time(torch.linspace(ends[0], ends[1], steps + 1, dtype=torch.float64).exp())
        places = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        times = schedule.time(torch.lerp(self.angles[1], self.angles[0], places).tan())
        return torch.cat([times.new_tensor([schedule.noisiest]), times[1:]])

    def solve(self, sampler: Sampler, schedule: Schedule, steps: int) -> tuple[Tensor, int]:
        """The sampler's end on the normalised path, and its number of evaluations."""
        denoise, calls = counted(self.mixture.denoiser(schedule))
        times = self.times(schedule, steps)
        first, last = (torch.hypot(*schedule(t)) for t in (times[0], times[-1]))
        x = run(sampler(denoise, first * self.start, times, SamplingRNG(0, range(len(self.start)))))
        return x / last, len(calls)


def three_gaussians() -> Mixture:
    """Three tilted Gaussians in the plane, of about unit size."""
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.3], [0.0, -1.0]])
    covariances = torch.tensor([[[0.4, 0.1], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.6]], [[0.3, -0.08], [-0.08, 0.4]]])
    return Mixture(means, covariances, torch.tensor([0.5, 0.3, 0.2]))


def counted(denoise: Bound) -> tuple[Bound, list[None]]:
    """The same denoiser, and a list that grows by one with every evaluation."""
    calls: list[None] = []

    def estimate(x: Tensor, t: Tensor) -> Estimate:
        calls.append(None)
        return denoise.estimate(x, t)

    return Bound(denoise.schedule, estimate), calls


def exact_solution(mixture: Mixture, start: Tensor, angles: Sequence[float]) -> Tensor:
    """The probability-flow ODE on the normalised path, from start (B, D) at one angle to another, to 1e-13.

    At angle 0, clean data, the ODE is solved up to 1e-7 and x0 is read there, which is right to 1e-13.
    """
    # Imported here because scipy costs more than the rest of core.
    from scipy.integrate import solve_ivp

    def slope(angle: float, flat: np.ndarray) -> np.ndarray:
        alpha, sigma = _on_circle(angle)
        y = torch.from_numpy(flat).view_as(start)
        change: np.ndarray = ((alpha * y - mixture.clean(y, alpha, sigma)) / sigma).flatten().numpy()
        return change

    stop = max(angles[1], 1e-7)
    solution = solve_ivp(slope, (angles[0], stop), start.flatten().numpy(), method="DOP853", rtol=1e-13, atol=1e-14)
    end = torch.from_numpy(solution.y[:, -1].copy()).view_as(start)
    if angles[1] >= stop:
        return end
    return mixture.clean(end, *_on_circle(stop))


def _on_circle(angle: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(math.cos(angle), dtype=torch.float64), torch.tensor(math.sin(angle), dtype=torch.float64)


def interior(mixture: Mixture | None = None, half_log_snr: float = 2.0, count: int = 16) -> Problem:
    """From half log-SNR -2 to 2: both ends are inside every schedule."""
    ends = [math.atan(math.exp(half_log_snr)), math.atan(math.exp(-half_log_snr))]
    return _problem(mixture or three_gaussians(), ends, True, count)


def full(schedule: Schedule, mixture: Mixture | None = None, count: int = 16) -> Problem:
    """From the schedule's noisiest time, pure noise on some, to clean data."""
    alpha, sigma = schedule(torch.tensor(schedule.noisiest, dtype=torch.float64))
    ends = [math.atan2(float(sigma), float(alpha)), 0.0]
    return _problem(mixture or three_gaussians(), ends, False, count)


def _problem(mixture: Mixture, ends: Sequence[float], is_interior: bool, count: int) -> Problem:
    start = mixture.sample(count, seed=0, alpha=math.cos(ends[0]), sigma=math.sin(ends[0]))
    angles = torch.tensor(ends, dtype=torch.float64)
    return Problem(mixture, angles, is_interior, start, exact_solution(mixture, start, ends))


def measure(name: str, info: SamplerInfo, label: str, schedule: Schedule, problem: Problem) -> Row:
    """One row: run the sampler at a doubling number of steps, or at falling tolerances."""
    if info.at_tolerance is not None:
        runs = [problem.solve(info.at_tolerance(tolerance), schedule, 1) for tolerance in TOLERANCES]
        work = [calls for _, calls in runs]
    else:
        work = list(STEPS if problem.interior else STEPS[:-2])
        runs = [problem.solve(info.sampler, schedule, steps) for steps in work]
    ends = [end for end, _ in runs]
    errors = [float((end - problem.end).abs().max()) for end in ends]
    limit = min(errors) if info.adaptive else float((extrapolate(ends, info.order) - problem.end).abs().max())
    measured = order_of(work, errors)
    return Row(name, label, problem.interior, info.order, measured, info.evaluations, min(errors), limit)


def order_of(work: Sequence[int], errors: Sequence[float]) -> float:
    """Minus the slope of log error over log work, by least squares on the last three points above rounding."""
    points = [(math.log(n), math.log(error)) for n, error in zip(work, errors) if error > ROUNDING][-3:]
    if len(points) < 2:
        return math.nan
    x, y = np.array(points).T
    x -= x.mean()
    return -float((x * y).sum() / (x * x).sum())


def extrapolate(ends: Sequence[Tensor], order: int) -> Tensor:
    """The limit of results at a doubling number of steps whose error is ``c h^order + c' h^(order + 1) + ...``.

    Richardson's extrapolation, repeated (Romberg): a sampler with a floor does not have the exact solution as limit.
    """
    column = list(ends)
    for power in range(order, order + len(ends) - 1):
        column = [fine + (fine - coarse) / (2**power - 1) for coarse, fine in zip(column, column[1:])]
    return column[0]


def certify(
    samplers: Mapping[str, SamplerInfo], schedules: Mapping[str, Schedule] = SCHEDULES, whole: bool = True
) -> list[Row]:
    """Measure every deterministic sampler on every schedule: the interior interval and, if ``whole``, the full one.

    Adaptive samplers have no row on the full interval: near clean data they end with one step, whatever the tolerance.
    """
    chosen = {name: info for name, info in samplers.items() if not info.stochastic}
    inner = interior()
    rows = []
    for label, schedule in schedules.items():
        rows += [measure(name, info, label, schedule, inner) for name, info in chosen.items()]
        if whole:
            outer = full(schedule)
            fixed = {name: info for name, info in chosen.items() if not info.adaptive}
            rows += [measure(name, info, label, schedule, outer) for name, info in fixed.items()]
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a page of tables, one for each interval: a line a sampler, a column a schedule."""
    page = ["# Certificates", "", PREFACE]
    for interior, title, note in SECTIONS:
        chosen = [row for row in rows if row.interior == interior]
        if chosen:
            page += ["", f"## {title}", "", note, "", *_table(chosen)]
    return "\n".join(page) + "\n"


def _table(rows: Sequence[Row]) -> list[str]:
    labels = list(dict.fromkeys(row.schedule for row in rows))
    head = ["sampler", "claim", "evaluations a step", *labels, "smallest error"]
    if rows[0].interior:
        head.append("error of the limit")
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)]
    for name in dict.fromkeys(row.sampler for row in rows):
        mine = [row for row in rows if row.sampler == name]
        line = [name, str(mine[0].claimed), str(mine[0].evaluations)]
        line += [f"{row.measured:.2f}" for row in mine] + [f"{max(row.smallest for row in mine):.1e}"]
        if rows[0].interior:
            line.append(f"{max(row.limit for row in mine):.1e}")
        lines.append(line)
    return [f"| {' | '.join(line)} |" for line in lines]


PREFACE = f"""\
Written by `langevin solvers`. The denoiser is the exact one of a Gaussian mixture in float64; the truth is the solution
of its probability-flow ODE to 1e-13. Under each schedule stands the measured order: minus the slope of the error over
the number of steps, {STEPS[0]} to {STEPS[-1]} (of an adaptive sampler over its evaluations, at falling tolerances). The
errors are the largest over samples, dimensions and schedules."""

INTERIOR = """\
Half log-SNR from -2 to 2 in equal steps: here the claims are checked. The error of the limit is what Richardson's
extrapolation of the same runs leaves; a sampler with a floor could not get there."""

FULL = """\
From the schedule's noisiest time, pure noise on the flow, to exact clean data, in equal steps of the angle
atan(sigma / alpha). For information only: the ends are infinitely far in log-SNR, the first and last steps are of order
one however many there are, and so the error falls with the square of the steps at best."""

SECTIONS = ((True, "The interior interval", INTERIOR), (False, "The full interval", FULL))
