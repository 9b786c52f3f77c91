"""Grids: which times a sampler visits.

A grid maps (schedule, steps) to ``steps + 1`` float64 times from noisy to clean. The last is ``schedule.time(0)``,
exact clean data; the first is ``schedule.noisiest``, except on ``leading``. Some grids space time, in the schedule's
own units, and work on every schedule; the others space the ratio r = sigma / alpha (EDM's sigma), and ``time`` turns r
into a time. Options are keywords, ``partial(karras, rho=5)``, or wrap a grid, ``shifted(trailing, 3.0)``.

Where a schedule starts at pure noise (a flow, zero-terminal SNR) its first ratio is infinite. Grids of ratios then
span [r, 1 / r] with r the ratio at ``cleanest``, as far on the noisy side as on the clean one, and move their first
point out to ``noisiest``: sampling starts from pure noise on every grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.schedule import Discrete, Schedule

Grid = Callable[[Schedule, int], Tensor]  # steps -> (steps + 1,) float64, noisy to clean


def linspace(schedule: Schedule, steps: int) -> Tensor:
    """Equal steps of time from ``noisiest`` to ``cleanest``, both visited (2305.08891, table 2)."""
    return _finish(schedule, _line(schedule.noisiest, schedule.cleanest, _checked(steps)))


def sgm_uniform(schedule: Schedule, steps: int) -> Tensor:
    """Equal steps of time from ``noisiest`` towards ``cleanest``, which the step to clean data replaces."""
    return _finish(schedule, _line(schedule.noisiest, schedule.cleanest, _checked(steps) + 1)[:-1])


def leading(schedule: Schedule, steps: int, offset: int = 0) -> Tensor:
    """DDPM's subset of its steps: equal steps up from ``cleanest``, which never reach ``noisiest``.

    On a ``Discrete`` table the times are its indices ``offset + k (T // steps)``, clamped to the table; elsewhere they
    divide [cleanest, noisiest] and ``offset`` is in the schedule's units (2305.08891, table 2).
    """
    count = _up_from_zero(steps).flip(0)
    if isinstance(schedule, Discrete):
        stride = float(_at_most(steps, schedule) // steps)
    else:
        stride = (schedule.noisiest - schedule.cleanest) / steps
    return _finish(schedule, (schedule.cleanest + offset + count * stride).clamp(max=schedule.noisiest))


def trailing(schedule: Schedule, steps: int) -> Tensor:
    """Equal steps down from ``noisiest`` of which the last ends at clean data (2305.08891, table 2).

    On a ``Discrete`` table the times are rounded to its indices. Where clean data lies at t = -inf (VE), ``cleanest``
    takes its place.
    """
    count = _up_from_zero(steps)
    if isinstance(schedule, Discrete):
        total = float(_at_most(steps, schedule))
        # The stride as numpy's arange rounds it, so that halves round to the same indices as elsewhere.
        stride = total - (total - total / steps)
        return _finish(schedule, (total - count * stride).round() - 1)
    return _finish(schedule, schedule.noisiest - count * ((schedule.noisiest - _clean_end(schedule)) / steps))


def quadratic(schedule: Schedule, steps: int) -> Tensor:
    """Times that grow with the square of their index, so that most are clean (2010.02502, appendix D.2)."""
    return _finish(schedule, _placed(schedule, _line(1, 0, _checked(steps)) ** 2))


def beta(schedule: Schedule, steps: int, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Times at equal quantiles of a Beta(alpha, beta) law, dense at both ends (2407.12173)."""
    # Imported here because scipy costs more than the rest of core, and only this grid wants it.
    from scipy.special import betaincinv

    quantile = torch.from_numpy(betaincinv(alpha, beta, _line(1, 0, _checked(steps)).numpy()))
    return _finish(schedule, _placed(schedule, quantile))


def linear_quadratic(schedule: Schedule, steps: int, threshold: float = 0.025) -> Tensor:
    """Small equal steps over the noisiest ``threshold`` of time, then growing ones (2410.13720, section 3.4.2).

    Half of the steps are small; value and slope are continuous where the halves meet.
    """
    small = _checked(steps) // 2
    if small == 0:
        return linspace(schedule, steps)
    large = steps - small
    slope = threshold / small
    count = _up_from_zero(steps)
    beyond = (count - small).clamp(min=0)
    passed = slope * count + (1 - slope * steps) * (beyond / large) ** 2
    return _finish(schedule, schedule.noisiest - passed * (schedule.noisiest - _clean_end(schedule)))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Tensor:
    """Equal steps of r^(1 / rho) (2206.00364, equation 5). Raises ValueError where ``cleanest`` has no noise."""
    high, low = _ratio_span(schedule, steps)
    return _from_ratios(schedule, _line(high ** (1 / rho), low ** (1 / rho), steps) ** rho)


def polyexponential(schedule: Schedule, steps: int, rho: float = 1.0) -> Tensor:
    """log r falls with the power rho of the index (k-diffusion). Raises ValueError where ``cleanest`` has no noise."""
    high, low = _ratio_span(schedule, steps)
    return _from_ratios(schedule, (math.log(low) + _line(1, 0, steps) ** rho * math.log(high / low)).exp())


def exponential(schedule: Schedule, steps: int) -> Tensor:
    """Equal steps of log r, which are equal steps of log-SNR (2206.00927). Raises ValueError as ``karras`` does."""
    return polyexponential(schedule, steps, rho=1.0)


def times(values: Tensor) -> Grid:
    """A grid given as its times, noisy to clean; the step to clean data is added where it is missing.

    The grid raises ValueError when asked for another number of steps, or when the values are not a falling sequence.
    """
    return lambda schedule, steps: _given(schedule, steps, values.double().cpu())


def sigmas(values: Tensor) -> Grid:
    """A grid given as its ratios sigma / alpha, as EDM-style samplers list them; see ``times``."""
    return lambda schedule, steps: _given(schedule, steps, schedule.time(values.double().cpu()))


def whole(grid: Grid) -> Grid:
    """A grid rounded to the indices of a ``Discrete`` table: the whole timesteps that DDPM-style models trained on."""

    def rounded(schedule: Schedule, steps: int) -> Tensor:
        if not isinstance(schedule, Discrete):
            raise ValueError("only the times of a Discrete schedule can be rounded to whole indices")
        return grid(schedule, steps).round()

    return rounded


def shifted(grid: Grid, shift: float) -> Grid:
    """A grid moved towards noise, as large images want: ``u -> shift u / (1 + (shift - 1) u)``.

    u is time scaled to 0 at clean data and 1 at ``noisiest``: on a flow it is sigma (2403.03206,
    equation 23). ``shift_from_mu`` gives the shift for a number of tokens.
    """
    if not shift > 0:
        raise ValueError(f"the shift of a grid must be positive, not {shift}")

    def moved(schedule: Schedule, steps: int) -> Tensor:
        low = _clean_end(schedule)
        place = (grid(schedule, steps)[:-1] - low) / (schedule.noisiest - low)
        return _finish(schedule, low + (schedule.noisiest - low) * (shift * place / (1 + (shift - 1) * place)))

    return moved


def stretched(grid: Grid, last: float) -> Grid:
    """A grid stretched so that its last time before clean data is ``last`` (LTX-Video's ``shift_terminal``)."""

    def scaled(schedule: Schedule, steps: int) -> Tensor:
        found = grid(schedule, steps)[:-1]
        if steps > 1:
            found = found[0] + (found - found[0]) * ((last - found[0]) / (found[-1] - found[0]))
        return _finish(schedule, found)

    return scaled


def between(grid: Grid, noisiest: float, cleanest: float) -> Grid:
    """A grid on another span of time than the schedule's own: ``between(karras, schedule.time(...), 0.0)``.

    A span of a ``Discrete`` table is divided evenly: only the whole table has indices to keep to.
    """
    if not noisiest > cleanest:
        raise ValueError(f"the span of a grid must end cleaner than it starts, not go from {noisiest} to {cleanest}")
    return lambda schedule, steps: grid(_Span(schedule, noisiest, cleanest), steps)


@dataclass(frozen=True)
class _Span:
    """A schedule seen between other ends."""

    whole: Schedule
    noisiest: float
    cleanest: float

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.whole(t)

    def time(self, ratio: Tensor) -> Tensor:
        return self.whole.time(ratio)


GRIDS: dict[str, Grid] = {
    "linspace": linspace,
    "leading": leading,
    "trailing": trailing,
    "sgm_uniform": sgm_uniform,
    "quadratic": quadratic,
    "beta": beta,
    "linear_quadratic": linear_quadratic,
    "karras": karras,
    "exponential": exponential,
    "log_snr": exponential,
    "polyexponential": polyexponential,
    "shifted": shifted(trailing, 3.0),
}


def _checked(steps: int) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"the number of steps must be a whole number of at least 1, not {steps!r}")
    return steps


def _at_most(steps: int, schedule: Discrete) -> int:
    """The length of the table. Raises ValueError if there are more steps than entries."""
    if steps > schedule.steps:
        raise ValueError(f"{steps} steps do not fit a table of {schedule.steps}: ask for fewer, or use linspace")
    return schedule.steps


def _up_from_zero(steps: int) -> Tensor:
    return torch.arange(_checked(steps), dtype=torch.float64)


def _line(start: float, stop: float, count: int) -> Tensor:
    """``count`` equally spaced values down to ``stop``, both ends exact; the start alone if there is one."""
    # Multiples of the stride, counted from the clean end: torch.linspace rounds halves of indices to other sides.
    rising = stop + _up_from_zero(count) * ((start - stop) / max(count - 1, 1))
    rising[-1] = start
    return rising.flip(0)


def _placed(schedule: Schedule, place: Tensor) -> Tensor:
    """Times at places in [0, 1] between ``cleanest`` and ``noisiest``, both exact."""
    return torch.lerp(torch.full_like(place, schedule.cleanest), torch.full_like(place, schedule.noisiest), place)


def _clean_time(schedule: Schedule) -> Tensor:
    return schedule.time(torch.zeros((), dtype=torch.float64))


def _clean_end(schedule: Schedule) -> float:
    """The time of clean data, or ``cleanest`` where that is -inf (VE)."""
    time = float(_clean_time(schedule))
    return time if math.isfinite(time) else schedule.cleanest


def _finish(schedule: Schedule, noisy: Tensor) -> Tensor:
    return torch.cat([noisy, _clean_time(schedule)[None]])


def _ratio_span(schedule: Schedule, steps: int) -> tuple[float, float]:
    """The largest and smallest finite ratio of a grid of ratios (see the module's docstring)."""
    _checked(steps)
    alpha, sigma = schedule(torch.tensor([schedule.noisiest, schedule.cleanest], dtype=torch.float64))
    high, low = (sigma / alpha).tolist()
    if math.isinf(high) and low > 0:
        high = 1 / low
    if not 0 < low < high:
        raise ValueError(
            "a grid of ratios needs noise at the schedule's cleanest time and room above it: "
            "use linspace, trailing, quadratic, beta or linear_quadratic, or another cleanest time"
        )
    return high, low


def _from_ratios(schedule: Schedule, ratios: Tensor) -> Tensor:
    found = schedule.time(ratios)
    found[0] = schedule.noisiest
    return _finish(schedule, found)


def _given(schedule: Schedule, steps: int, values: Tensor) -> Tensor:
    clean = float(_clean_time(schedule))
    if values.ndim != 1 or bool(values.isnan().any()) or bool((values.diff() > 0).any()):
        raise ValueError("a grid given as data must be a 1-d tensor of numbers that go from noisy to clean")
    noisy = values[:-1] if len(values) and float(values[-1]) == clean else values
    if _checked(steps) != len(noisy):
        raise ValueError(f"this grid is given as data and has {len(noisy)} steps, not {steps}")
    return _finish(schedule, noisy)
