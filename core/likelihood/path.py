"""Likelihood: the probability-flow ODE from data to noise and back, and the density that it carries along.

Seen from the angle ``a = atan(sigma / alpha)`` all paths are one (2011.13456, appendix D.1; 2206.00364, section 2).
With ``y = x_t / hypot(alpha, sigma)`` and D = E[x0 | x_t],

    dy / da = f = (cos(a) y - D) / sin(a),        d log p(y) / da = -div f,        0 <= a <= pi / 2.

f is finite at pure noise, where alpha is 0, and linear in a near clean data, so that ``log_prob`` is the density of the
data itself although the model is never asked below the schedule's cleanest time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import RK45
from torch import Tensor

from core.denoiser import Bound

Field = Callable[[float, Tensor], Tensor]  # a, state (B, M) -> its derivative (B, M)


@torch.no_grad()
def encode(denoise: Bound, x: Tensor, tolerance: float = 1e-6) -> Tensor:
    """The noise of data: x (B, ...) at clean data -> x_t (B, ...) at the schedule's noisiest time."""
    first, last = ends(denoise)
    velocity = Velocity(denoise, x.dtype)
    y = first_step(velocity, x.double(), first, tolerance)
    *_, step = integrate(flat(velocity, x.shape), y.flatten(1), first, last, each_number(tolerance))
    return (step.state.view(x.shape) * end_size(denoise)).to(x.dtype)


@torch.no_grad()
def decode(denoise: Bound, x: Tensor, tolerance: float = 1e-6) -> Tensor:
    """The data of noise, the inverse of ``encode``: x_t (B, ...) at the noisiest time -> x0 (B, ...)."""
    first, last = ends(denoise)
    velocity = Velocity(denoise, x.dtype)
    y = (x.double() / end_size(denoise)).flatten(1)
    *_, step = integrate(flat(velocity, x.shape), y, last, first, each_number(tolerance))
    return (step.state - first / 2 * step.slopes[-1]).view(x.shape).to(x.dtype)


def _blend(weights: np.ndarray, values: Tensor) -> Tensor:
    """The sum of the first values (S, B, M), each times its weight (S or more,)."""
    return torch.tensordot(torch.from_numpy(weights[: len(values)]).to(values), values, 1)


class Velocity:
    """f(a, y) for y (B, ...); the denoiser computes in ``dtype``, everything else in float64. It counts its calls."""

    def __init__(self, denoise: Bound, dtype: torch.dtype) -> None:
        self.denoise = denoise
        self.dtype = dtype
        self.calls = 0

    def __call__(self, a: float, y: Tensor) -> Tensor:
        self.calls += 1
        schedule = self.denoise.schedule
        t = schedule.time(torch.tensor(math.inf if a == math.pi / 2 else math.tan(a), dtype=torch.float64))
        alpha, sigma = (float(value) for value in schedule(t))
        size = math.hypot(alpha, sigma)
        clean = self.denoise((size * y).to(self.dtype), t).double()
        return (alpha / size * y - clean) * (size / sigma)


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
    """An accepted step of the solver, and the path within it."""

    start: float
    angle: float  # where it ends
    before: Tensor  # (B, M), the state at its start
    state: Tensor  # (B, M), the state at its end
    slopes: Tensor  # (7, B, M), the derivatives at its stages

    def at(self, part: float) -> tuple[Tensor, Tensor]:
        """The state and its derivative (B, M) a ``part`` of the way, in [0, 1]; of order 4, exact at both ends."""
        powers = np.arange(1, 5)
        length = self.angle - self.start
        shift, rate = RK45.P @ part**powers, RK45.P @ (powers * part ** (powers - 1))
        return self.before + length * _blend(shift, self.slopes), _blend(rate, self.slopes)


Norm = Callable[[float, Tensor, Tensor], float]  # angle, error and state of a step -> the error in tolerances


def each_number(tolerance: float) -> Norm:
    """The largest error of a number x, in units of ``tolerance (1 + |x|)``."""
    return lambda angle, error, state: float((error / (tolerance * (1 + state.abs()))).abs().max())


def against_noise(tolerance: float) -> Norm:
    """The root mean square error of the worst sample, in units of ``tolerance`` times the noise's deviation, sin(a).

    A density has no finer structure than the noise, so that an error of the path matters in this unit: the steps near
    clean data are small as they must be, and no smaller.
    """
    return lambda angle, error, state: float(error.square().mean(1).max().sqrt()) / (tolerance * math.sin(angle))


_PATIENCE = 1000  # steps


def integrate(field: Field, state: Tensor, start: float, stop: float, norm: Norm) -> Iterator[Solved]:
    """Adaptive Runge-Kutta of orders 5 and 4 (Dormand and Prince); every step's error is at most 1 in ``norm``.

    Raises ValueError where no step reaches it.
    """
    angle, step, slope = start, (stop - start) / 50, field(start, state)
    step = math.copysign(min(abs(step), start), step)
    for _ in range(_PATIENCE):
        slopes = slope[None]
        for node, row in zip(RK45.C[1:], RK45.A[1:]):
            slopes = torch.cat([slopes, field(angle + node * step, state + step * _blend(row, slopes))[None]])
        there = state + step * _blend(RK45.B, slopes)
        slopes = torch.cat([slopes, field(angle + step, there)[None]])
        error = step * _blend(RK45.E, slopes)
        size = norm(angle + step, error, torch.maximum(state.abs(), there.abs()))
        if size <= 1:
            arrived = abs(stop - angle - step) <= 1e-12 * abs(stop - start)
            end = stop if arrived else angle + step
            yield Solved(angle, end, state, there, slopes)
            angle, state, slope = end, there, slopes[-1]
            if arrived:
                return
        step *= min(5.0, max(0.2, 0.9 * max(size, 1e-10) ** -0.2)) if math.isfinite(size) else 0.2
        # Longer steps would jump over the places where a sample decides between modes, without noticing.
        longest = min(abs(stop - angle), abs(stop - start) / 20)
        step = math.copysign(min(abs(step), longest), stop - start)
    raise ValueError("the ODE cannot be solved to this tolerance: raise the tolerance or compute in float64")
