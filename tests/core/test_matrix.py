"""The total matrix: every schedule with every prediction, grid, sampler and tensor rank, and with 1, 2 and 5 steps.

The model is the closed form of Gaussian data N(m, s^2), as the output of each prediction and read back. A batch holds
every prediction twice, with s = 0 (a point, which every sampler must hit) and with s = 1/2, all from the same noise, so
that all predictions must agree. Cells that cannot work are listed with the reason, and must say so in one clear
ValueError; nothing else may raise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from core.cond import Cond
from core.denoiser import Bound, Denoiser, Estimate
from core.grid import GRIDS
from core.prediction import X0, Epsilon, F, FlowVelocity, LearnedRange, Prediction, Score, V
from core.random import SamplingRNG
from core.sample import SAMPLERS
from core.sample.info import SamplerInfo
from core.sample.step import Sampler, run
from core.schedule import (
    Discrete,
    Schedule,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    sigmoid_betas,
    zero_terminal_snr,
)
from tests.support.schedules import CONTINUOUS

SCHEDULES: dict[str, Schedule] = {
    "linear": Discrete(linear_betas()),
    "scaled-linear": Discrete(scaled_linear_betas()),
    "cosine table": Discrete(cosine_betas()),
    "sigmoid": Discrete(sigmoid_betas()),
    "zero-terminal": Discrete(zero_terminal_snr(scaled_linear_betas())),
    **CONTINUOUS,
}
PREDICTIONS: dict[str, Prediction] = {
    "epsilon": Epsilon(),
    "x0": X0(),
    "v": V(),
    "velocity": FlowVelocity(),
    "score": Score(),
    "f": F(),
    "learned range": LearnedRange(V()),
}
RANKS: tuple[tuple[int, ...], ...] = ((6,), (2, 3), (2, 3, 2), (2, 2, 1, 2))  # what follows the batch
STEPS = (1, 2, 5)
MEAN, DEVIATION = 0.4, 0.5

# Cells that cannot work, and what they say. A grid that starts at alpha = 0 starts with the noise itself, and a
# prediction that says what the noise is tells nothing of x0 there.
UNSUPPORTED_FROM_PURE_NOISE = {
    "epsilon": "epsilon does not determine x0 at alpha = 0",
    "score": "the score does not determine x0 at alpha = 0",
}

# Where a step spans decades of sigma / alpha, these go on adding noise, or a slope, of the size of the larger level:
# in few steps on such grids they end no nearer than they began, and the point alone is held to the truth.
OVERSHOOT = (
    "dpm2_ancestral",
    "edm",
    "restart",
    "euler_maruyama",
    "ddpm_large",
    "reverse_diffusion",
    "predictor_corrector",
)
# Their last step extrapolates the noise to clean data, and the weights amplify rounding where times are clustered.
EXTRAPOLATE = ("lms", "plms", "pndm")


def posterior_mean(x: Tensor, alpha: Tensor, sigma: Tensor, deviation: Tensor) -> Tensor:
    """E[x0 | x_t] of data N(MEAN, deviation^2)."""
    gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


def model(schedule: Schedule, predictions: Sequence[Prediction]) -> Bound:
    """The closed form for a batch that holds a point and a Gaussian for each prediction."""

    @cache  # samplers visit the same times
    def level(t: float) -> tuple[Tensor, Tensor]:
        return schedule(torch.tensor(t, dtype=torch.float64))

    def estimate(x: Tensor, t: Tensor) -> Estimate:
        alpha, sigma = level(float(t))
        clean = posterior_mean(x, alpha, sigma, deviations(x))
        noise = (x - alpha * clean) / sigma
        estimates = []
        for prediction, pair, truth, eps in zip(predictions, x.split(2), clean.split(2), noise.split(2)):
            output = prediction.target(truth, eps, alpha, sigma)
            if isinstance(prediction, LearnedRange):
                output = torch.cat([output, torch.zeros_like(output)], dim=1)
            estimates.append(prediction.clean(pair, output, alpha, sigma))
        return Estimate(torch.cat(estimates), torch.full_like(x, 0.5))

    return Bound(schedule, estimate)


def deviations(x: Tensor) -> Tensor:
    """(B, 1, ...): 0 for the points at even places, DEVIATION for the Gaussians between them."""
    pair = torch.tensor([0.0, DEVIATION], dtype=x.dtype)
    return pair.expand(len(x) // 2, 2).reshape(-1, *[1] * (x.ndim - 1))


class SharedNoise:
    """The same noise for every prediction: that of samples 0 and 1, repeated."""

    def __init__(self, pairs: int) -> None:
        self.pairs, self.noise = pairs, SamplingRNG(seed=0, samples=(0, 1))

    def spread(self, pair: Tensor) -> Tensor:
        return pair.repeat(self.pairs, *[1] * (pair.ndim - 1))

    def normal(self, like: Tensor, step: int, part: int = 0) -> Tensor:
        return self.spread(self.noise.normal(like, step, part))

    def brownian(self, like: Tensor, start: float, stop: float) -> Tensor:
        return self.spread(self.noise.brownian(like, start, stop))


@dataclass(frozen=True)
class Walk:
    """One run, of samples (2 P, ...): its end, that of the exact probability flow, and E[x0 | start]."""

    end: Tensor
    flow: Tensor
    one_step: Tensor


def walk(bound: Bound, times: Tensor, sampler: Sampler, pairs: int, rank: Sequence[int], dtype: torch.dtype) -> Walk:
    """Sample a batch in which every prediction starts from, and is given, the same noise."""
    noise = SharedNoise(pairs)
    unit = noise.spread(noise.noise.start(rank))
    alpha, sigma = bound.schedule(times[0])
    deviation = deviations(unit)
    start = (alpha * MEAN + ((alpha * deviation) ** 2 + sigma**2).sqrt() * unit).to(dtype)
    end = run(sampler(bound, start, times, noise))
    assert end.shape == start.shape and end.dtype == dtype
    return Walk(end.double(), MEAN + deviation * unit, posterior_mean(start.double(), alpha, sigma, deviation))


def largest(values: Tensor) -> float:
    return float(values.abs().max())


def complaints(walked: Walk, name: str, info: SamplerInfo, steps: int, reach: float) -> Iterator[str]:
    """What is wrong with a walk in float32 that began at a ratio sigma / alpha of ``reach``, if that is finite."""
    end = walked.end
    if not bool(end.isfinite().all()):
        yield "is not finite"
        return
    # Epsilon and the score divide the rounding of x_t by alpha.
    rounding = 2e-4 + 3e-7 * reach
    point = largest(end[::2] - MEAN)
    if point > (2e-2 + rounding if name in EXTRAPOLATE else rounding):
        yield f"misses the point by {point:.1e}"
    disagreement = largest(end[1::2] - end[1:2]) / max(1.0, largest(end))
    if disagreement > 3e-2 and name != "predictor_corrector":
        yield f"does not say the same in all predictions: {disagreement:.1e}"
    away = largest(end[1::2] - MEAN)
    if away > (4 * max(15.0, reach) if name in OVERSHOOT else 15.0):
        yield f"ends {away:.1e} from the mean"
    if info.adaptive and largest(end - walked.flow) > 2e-3 + rounding:
        yield f"misses the probability flow by {largest(end - walked.flow):.1e}"
    # A corrector moves x before the one step.
    if steps == 1 and not info.adaptive and name != "predictor_corrector":
        error = largest(end - walked.one_step)
        if error > rounding:
            yield f"misses E[x0 | x_t] in one step by {error:.1e}"


def reach_of(schedule: Schedule, times: Tensor) -> float:
    """The largest finite ratio sigma / alpha among the times."""
    alpha, sigma = schedule(times)
    return float((sigma / alpha)[alpha > 0].max())


def supported(schedule: Schedule, times: Tensor) -> dict[str, Prediction]:
    """The predictions that work on a grid."""
    pure_noise = bool(schedule(times[0])[0] == 0)
    return {name: p for name, p in PREDICTIONS.items() if not (pure_noise and name in UNSUPPORTED_FROM_PURE_NOISE)}


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_every_cell(share: int) -> None:
    """All of schedule x prediction x grid x sampler x rank, and each of those with all of 1, 2 and 5 steps.

    share: 4 tests a quarter, in which each sampler meets every schedule and grid, and the ranks go round.
    """
    failures, count = [], 0
    cells = itertools.product(SCHEDULES.items(), GRIDS.items())
    for cell, ((schedule_name, schedule), (grid_name, grid)) in enumerate(cells):
        times = {steps: grid(schedule, steps) for steps in STEPS}
        reach = {steps: reach_of(schedule, found) for steps, found in times.items()}
        predictions = list(supported(schedule, times[1]).values())
        bound = model(schedule, predictions)
        for index, (name, info) in enumerate(SAMPLERS.items()):
            # The number of steps goes round as the ranks do: four ranks meet all three numbers.
            for turn, rank in enumerate(RANKS):
                if (cell + index + turn) % share:
                    continue
                steps = STEPS[(index + turn) % len(STEPS)]
                count += len(predictions)
                try:
                    walked = walk(bound, times[steps], info.sampler, len(predictions), rank, torch.float32)
                    found = list(complaints(walked, name, info, steps, reach[steps]))
                except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
                    found = [f"raised {error!r}"]
                failures += [(schedule_name, grid_name, name, rank, steps, complaint) for complaint in found]
    assert share * count > 30 * len(SCHEDULES) * len(GRIDS) * len(RANKS) * 5
    assert not failures, "\n".join(map(str, [f"{len(failures)} complaints, {count} cells", *failures[:60]]))


def test_unsupported_cells_say_so() -> None:
    """From pure noise, epsilon and the score raise one clear ValueError, whatever the grid and the sampler."""
    silent: list[tuple[str, ...]] = []
    count = 0
    for (schedule_name, schedule), (grid_name, grid) in itertools.product(SCHEDULES.items(), GRIDS.items()):
        times = grid(schedule, 2)
        for name in PREDICTIONS.keys() - supported(schedule, times).keys():
            bound = model(schedule, [PREDICTIONS[name]])
            for sampler_name, info in SAMPLERS.items():
                count += 1
                try:
                    walk(bound, times, info.sampler, 1, (6,), torch.float32)
                    silent.append((schedule_name, grid_name, name, sampler_name))
                except ValueError as error:
                    if UNSUPPORTED_FROM_PURE_NOISE[name] not in str(error):
                        silent.append((schedule_name, grid_name, name, sampler_name, str(error)))
    # Five schedules reach pure noise, and every grid but leading starts there.
    assert count == 5 * (len(GRIDS) - 1) * len(UNSUPPORTED_FROM_PURE_NOISE) * len(SAMPLERS)
    assert not silent, silent[:60]


def test_twenty_steps_in_float64_are_near_the_truth() -> None:
    """Points to 1e-9, all predictions alike, deterministic samplers near the flow, stochastic ones near the law."""
    failures = []
    for schedule_name, schedule in SCHEDULES.items():
        times = GRIDS["exponential"](schedule, 20)
        predictions = list(supported(schedule, times).values())
        bound = model(schedule, predictions)
        for name, info in SAMPLERS.items():
            walked = walk(bound, times, info.sampler, len(predictions), (40,), torch.float64)
            point, alike = largest(walked.end[::2] - MEAN), largest(walked.end[1::2] - walked.end[1:2])
            deviation = float((walked.end[1] - MEAN).square().mean().sqrt()) / DEVIATION
            error = 0.0 if info.stochastic else largest(walked.end - walked.flow)
            near = error < (0.25 if info.order == 1 else 0.15) and 0.6 < deviation < 1.7
            if not (point < 1e-9 and alike < 1e-6 and near):
                failures.append((schedule_name, name, point, alike, error, deviation))
    assert not failures, "\n".join(map(str, failures))


class InTermsOf(nn.Module):
    """The closed form as a network that answers in the terms of a prediction."""

    def __init__(self, schedule: Schedule, prediction: Prediction) -> None:
        super().__init__()
        self.schedule, self.prediction = schedule, prediction

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = self.schedule(time[0])
        x_t = x / self.prediction.scale(alpha, sigma)
        clean = posterior_mean(x_t, alpha, sigma, torch.tensor(DEVIATION))
        output = self.prediction.target(clean, (x_t - alpha * clean) / sigma, alpha, sigma)
        return torch.cat([output, 0.0 * output], dim=1) if isinstance(self.prediction, LearnedRange) else output


def test_the_denoiser_of_a_network_reaches_the_flow() -> None:
    """The same through ``Denoiser``: schedule x prediction, by an adaptive sampler, in float64."""
    sampler = SAMPLERS["adaptive"].sampler
    unit = SamplingRNG(seed=0, samples=range(2)).start((2, 3))
    for schedule_name, schedule in SCHEDULES.items():
        times = GRIDS["trailing"](schedule, 1)
        alpha, sigma = schedule(times[0])
        start = alpha * MEAN + ((alpha * DEVIATION) ** 2 + sigma**2).sqrt() * unit
        for name, prediction in supported(schedule, times).items():
            bound = Denoiser(InTermsOf(schedule, prediction), schedule, prediction).bind()
            end = run(sampler(bound, start, times, SamplingRNG(0, range(2))))
            error = largest(end - (MEAN + DEVIATION * unit))
            assert error < 5e-3, (schedule_name, name, error)
