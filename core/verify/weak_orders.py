"""Certificates of the stochastic samplers: weak order, and moments of what they draw.

On Gaussian data the denoiser is affine, so all but one of the samplers turn noise into samples by an affine map:
x = A x_start + b + sum_k C_k z_k. Probing the map with unit vectors gives A, b and every C_k, and with them the mean
and the covariance of the samples without any sampling error; the order is the slope of their error. On a mixture the
moments of drawn samples are compared with the exact ones in standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.sample.info import SamplerInfo
from core.sample.step import run
from core.schedule import Schedule
from core.verify.mixture import Mixture
from core.verify.orders import SCHEDULES, order_of, three_gaussians

STEPS = (64, 128, 256, 512)
HALF_LOG_SNR = 2.0  # from -2 to 2, inside every schedule


@dataclass(frozen=True)
class WeakRow:
    """What was measured of a stochastic sampler on a schedule."""

    sampler: str
    schedule: str
    claimed: int
    measured: float  # NaN where the sampler is not affine
    evaluations: int  # a step
    mean: float  # the largest error of the mean of samples of a mixture, in standard errors
    covariance: float  # the same of the covariance


@dataclass
class Path:
    """A Brownian path made of independent draws, built forward as a sampler visits it.

    A new point lies beyond those before it, so that one more draw tells it; stages of a step that overlap see one path.
    """

    draw: Callable[[Tensor], Tensor]
    places: dict[float, Tensor] = field(default_factory=dict)

    def increment(self, like: Tensor, start: float, stop: float) -> Tensor:
        """The increment from start down to stop, divided by its deviation."""
        reached = {place: value for place, value in self.places.items() if place <= start}
        self.places = reached or {start: torch.zeros_like(like)}
        if stop not in self.places:
            last = min(self.places)
            self.places[stop] = self.places[last] + math.sqrt(last - stop) * self.draw(like)
        return (self.places[stop] - self.places[start]) / math.sqrt(start - stop)


class Probe:
    """A noise source that is zero, but for row k + 2 of the k-th draw, which is one."""

    def __init__(self) -> None:
        self.drawn = 0
        self.path = Path(lambda like: self.normal(like, 0))

    def normal(self, like: Tensor, step: int, part: int = 0) -> Tensor:
        """The next draw."""
        unit = torch.zeros_like(like)
        if self.drawn + 2 < len(like):
            unit[self.drawn + 2] = 1
        self.drawn += 1
        return unit

    def brownian(self, like: Tensor, start: float, stop: float) -> Tensor:
        """The increment of a path of such draws."""
        return self.path.increment(like, start, stop)


class Fresh:
    """Independent draws from one generator: faster than a noise that remembers which sample it is for."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.path = Path(lambda like: self.normal(like, 0))

    def normal(self, like: Tensor, step: int, part: int = 0) -> Tensor:
        """The next draw."""
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)

    def brownian(self, like: Tensor, start: float, stop: float) -> Tensor:
        """The increment of a path of such draws."""
        return self.path.increment(like, start, stop)


def gaussian() -> Mixture:
    """An off-centre Gaussian in the plane with unequal variances."""
    return Mixture(torch.tensor([[0.7, -0.3]]), torch.tensor([[0.5, 0.09]]))


def times_of(schedule: Schedule, steps: int) -> Tensor:
    """steps + 1 times, equally spaced in log-SNR on the interior interval."""
    return schedule.time(torch.linspace(HALF_LOG_SNR, -HALF_LOG_SNR, steps + 1, dtype=torch.float64).exp())


def moments(info: SamplerInfo, schedule: Schedule, steps: int, data: Mixture) -> tuple[Tensor, Tensor]:
    """Mean (D,) and variances (D,) of what an affine sampler makes of Gaussian data with independent coordinates."""
    times, denoise = times_of(schedule, steps), data.denoiser(schedule)
    count = Probe()
    run(info.sampler(denoise, torch.zeros(1, 2, dtype=torch.float64), times, count))
    start = torch.zeros(count.drawn + 2, 2, dtype=torch.float64)
    start[1] = 1
    ends = run(info.sampler(denoise, start, times, Probe()))
    shift, carry, noise = ends[0], ends[1] - ends[0], ends[2:] - ends[0]
    alpha, sigma = schedule(times[0])
    mean, variance = data.mean(), data.covariance().diagonal()
    return carry * alpha * mean + shift, carry**2 * (alpha**2 * variance + sigma**2) + noise.square().sum(0)


def weak_error(info: SamplerInfo, schedule: Schedule, steps: int) -> float:
    """The largest error of the mean and of the variances, relative to the size hypot(alpha, sigma) of the path."""
    data = gaussian()
    mean, variance = moments(info, schedule, steps, data)
    alpha, sigma = schedule(times_of(schedule, steps)[-1])
    true_variance = alpha**2 * data.covariance().diagonal() + sigma**2
    size = torch.hypot(alpha, sigma)
    errors = (mean - alpha * data.mean()).abs() / size, (variance - true_variance).abs() / size**2
    return float(torch.cat(errors).max())


def drawn_moments(info: SamplerInfo, schedule: Schedule, steps: int, count: int, seed: int = 0) -> tuple[float, float]:
    """The largest errors of mean and covariance of ``count`` samples of a mixture, in standard errors."""
    data = three_gaussians()
    times = times_of(schedule, steps)
    (alpha, sigma), (last_alpha, last_sigma) = (schedule(times[i]) for i in (0, -1))
    start = data.sample(count, seed=seed, alpha=float(alpha), sigma=float(sigma))
    noise = Fresh(seed)
    x = run(info.sampler(data.denoiser(schedule), start, times, noise))
    off = x - last_alpha * data.mean()
    truth = last_alpha**2 * data.covariance() + last_sigma**2 * torch.eye(2, dtype=torch.float64)
    products = off[:, :, None] * off[:, None, :]
    mean = off.mean(0) / (off.std(0) / math.sqrt(count))
    covariance = (products.mean(0) - truth) / (products.std(0) / math.sqrt(count))
    return float(mean.abs().max()), float(covariance.abs().max())


def certify_weak(
    samplers: Mapping[str, SamplerInfo],
    schedules: Mapping[str, Schedule] = SCHEDULES,
    count: int = 20_000,
    steps: int = 300,
) -> list[WeakRow]:
    """Measure every stochastic sampler on every schedule."""
    rows = []
    for label, schedule in schedules.items():
        for name, info in samplers.items():
            if not info.stochastic:
                continue
            errors = [weak_error(info, schedule, number) for number in STEPS] if info.order else []
            measured = order_of(STEPS, errors) if errors else math.nan
            mean, covariance = drawn_moments(info, schedule, steps, count)
            rows.append(WeakRow(name, label, info.order, measured, info.evaluations, mean, covariance))
    return rows


def weak_markdown(rows: Sequence[WeakRow]) -> str:
    """The rows as a section of the page of certificates."""
    labels = list(dict.fromkeys(row.schedule for row in rows))
    head = ["sampler", "claim", "evaluations a step", *labels, "mean, standard errors", "covariance, standard errors"]
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)]
    for name in dict.fromkeys(row.sampler for row in rows):
        mine = [row for row in rows if row.sampler == name]
        orders = ["none" if math.isnan(row.measured) else f"{row.measured:.2f}" for row in mine]
        worst = [f"{max(row.mean for row in mine):.1f}", f"{max(row.covariance for row in mine):.1f}"]
        lines.append([name, str(mine[0].claimed or "none"), str(mine[0].evaluations), *orders, *worst])
    table = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join(["", "## The stochastic samplers", "", PREFACE, "", *table]) + "\n"


PREFACE = f"""\
Weak order on the interior interval, half log-SNR from -2 to 2, {STEPS[0]} to {STEPS[-1]} steps: the mean and covariance
of the samples are propagated exactly through each sampler on Gaussian data, so no sampling error hides the slope. The
last two columns are the largest errors, over schedules, of the mean and covariance of samples drawn from a mixture in
300 steps, in standard errors. Two samplers claim no order: the Langevin corrector, whose
step is normalised by the norms of the sample's own noise and score, has a bias in few dimensions, and consistency
sampling forgets everything but its last estimate."""
