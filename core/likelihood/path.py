"""Likelihood: the probability-flow ODE from data to noise and back, and the density that it carries along.

Seen from the angle ``a = atan(sigma / alpha)`` all paths are one (2011.13456, appendix D.1; 2206.00364, section 2).
With ``y = x_t / hypot(alpha, sigma)`` and D = E[x0 | x_t],

    dy / da = f = (cos(a) y - D) / sin(a),        d log p(y) / da = -div f,        0 <= a <= pi / 2.

f is finite at pure noise, where alpha is 0, and linear in a near clean data, so that ``log_prob`` is the density of the
data itself although the model is never asked below the schedule's cleanest time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.denoiser import Bound

Field = Callable[[float, Tensor], Tensor]  # a, state (B, M) -> its derivative (B, M)


@torch.no_grad()
def encode(denoise: Bound, x: Tensor, tolerance: float = 1e-6) -> Tensor:
    """The noise of data: x (B, ...) at clean data -> x_t (B, ...) at the schedule's noisiest time."""
    first, last = ends(denoise)
    velocity = velocity_of(denoise, x.dtype)
    y = first_step(velocity, x.double(), first, tolerance)
    *_, step = integrate(flat(velocity, x.shape), y.flatten(1), first, last, tolerance)
    return (step.state.view(x.shape) * end_size(denoise)).to(x.dtype)


@torch.no_grad()
def decode(denoise: Bound, x: Tensor, tolerance: float = 1e-6) -> Tensor:
    """The data of noise, the inverse of ``encode``: x_t (B, ...) at the noisiest time -> x0 (B, ...)."""
    first, last = ends(denoise)
    velocity = velocity_of(denoise, x.dtype)
    y = (x.double() / end_size(denoise)).flatten(1)
    *_, step = integrate(flat(velocity, x.shape), y, last, first, tolerance)
    return (step.state - first / 2 * step.slope).view(x.shape).to(x.dtype)


def _blend(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    return torch.stack([weight * value for weight, value in zip(weights, values) if weight]).sum(0)


def velocity_of(denoise: Bound, dtype: torch.dtype) -> Field:
    """f(a, y) for y (B, ...); the denoiser computes in ``dtype``, everything else in float64."""

    def velocity(a: float, y: Tensor) -> Tensor:
        ratio = torch.tensor(math.inf if a == math.pi / 2 else math.tan(a), dtype=torch.float64)
        t = denoise.schedule.time(ratio)
        alpha, sigma = (float(value) for value in denoise.schedule(t))
        size = math.hypot(alpha, sigma)
        clean = denoise((size * y).to(dtype), t).double()
        return (alpha / size * y - clean) * (size / sigma)

    return velocity


def flat(velocity: Field, shape: torch.Size) -> Field:
    return lambda a, state: velocity(a, state.view(shape)).flatten(1)


def first_step(velocity: Field, x: Tensor, first: float, tolerance: float) -> Tensor:
    """From the data to the first angle with f proportional to a: ``y = x + a f(a, y) / 2``, by iteration."""
    y = x
    for _ in range(40):
        before, y = y, x + first / 2 * velocity(first, y)
        if float((y - before).abs().max()) <= tolerance / 1000:
            break
    return y


def ends(denoise: Bound) -> tuple[float, float]:
    """The angles of the schedule's cleanest and noisiest times."""
    ends = torch.tensor([denoise.schedule.cleanest, denoise.schedule.noisiest], dtype=torch.float64)
    alpha, sigma = denoise.schedule(ends)
    first, last = torch.atan2(sigma, alpha).tolist()
    return first, last


def end_size(denoise: Bound) -> float:
    """hypot(alpha, sigma) at the noisiest time."""
    alpha, sigma = denoise.schedule(torch.tensor(denoise.schedule.noisiest, dtype=torch.float64))
    return math.hypot(float(alpha), float(sigma))


@dataclass(frozen=True)
class Solved:
    """An accepted step of the solver: where it is, the state there, its derivative and the step's local error."""

    angle: float
    state: Tensor  # (B, M)
    slope: Tensor  # (B, M)
    error: Tensor  # (B, M)


# Dormand and Prince's pair of orders 5 and 4; the last stage is the next step's first.
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_PATIENCE = 1000  # steps
_ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def integrate(field: Field, state: Tensor, start: float, stop: float, tolerance: float) -> Iterator[Solved]:
    """Adaptive Runge-Kutta; every number keeps to ``tolerance (1 + |state|)`` a step. ValueError where none can."""
    angle, step, slope = start, (stop - start) / 50, field(start, state)
    for _ in range(_PATIENCE):
        slopes = [slope]
        for node, row in zip(_NODES, _STAGES):
            there = state + step * _blend(row, slopes)
            slopes.append(field(angle + node * step, there))
        error = step * _blend(_ERROR, slopes)
        scaled = error / (tolerance * (1 + torch.maximum(state.abs(), there.abs())))
        size = float(scaled.abs().max())
        if size <= 1:
            arrived = abs(stop - angle - step) <= 1e-12 * abs(stop - start)
            angle, state, slope = (stop if arrived else angle + step), there, slopes[-1]
            yield Solved(angle, state, slope, error)
            if arrived:
                return
        step *= min(5.0, max(0.2, 0.9 * max(size, 1e-10) ** -0.2)) if math.isfinite(size) else 0.2
        # Longer steps would jump over the places where a sample decides between modes, without noticing.
        longest = min(abs(stop - angle), abs(stop - start) / 20)
        step = math.copysign(min(abs(step), longest), stop - start)
    raise ValueError(f"the ODE cannot be solved to {tolerance:g}: raise the tolerance or compute in float64")
