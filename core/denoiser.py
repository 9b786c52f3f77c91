"""Denoiser: a network, a schedule and a prediction make E[x0 | x_t, cond].

It is the only thing that training and sampling share. Samplers see it bound to a condition: a ``Bound`` maps (x, t) to
x0 and knows its schedule, and nothing else about the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from core.cond import Cond
from core.prediction import LearnedRange, Prediction
from core.schedule import Schedule


class Estimate(NamedTuple):
    """What a denoiser knows of x_t: x0 and, where the model learned it, how to mix the variance bounds (see DDPM)."""

    clean: Tensor  # the shape of x
    mix: Tensor | None = None  # the shape of x, in [0, 1]: log variance = mix log beta + (1 - mix) log beta-tilde


@dataclass(frozen=True)
class Bound:
    """A denoiser with its condition inside: ``bound(x, t)`` is x0. One evaluation of the model a call."""

    schedule: Schedule
    estimate: Callable[[Tensor, Tensor], Estimate]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, ...) and t () or (B,) -> x0 (B, ...)."""
        return self.estimate(x, t).clean

    def map_x0(self, function: Callable[[Tensor], Tensor]) -> Bound:
        """The same denoiser, but for its x0 (B, ...), which ``function`` changes."""

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            clean, mix = self.estimate(x, t)
            return Estimate(function(clean), mix)

        return Bound(self.schedule, estimate)


class DenoiserLike(Protocol):
    """Anything that samplers and guidance can work with: a denoiser, or a denoiser wrapped by guidance."""

    @property
    def schedule(self) -> Schedule:
        """The path on which it denoises."""

    def bind(self, cond: Cond) -> Bound:
        """Fix the condition, computing once what does not depend on x."""


@runtime_checkable
class Preparable(Protocol):
    """A network that can do beforehand what does not depend on x: keys and values of text, modulations, positions."""

    def prepare(self, cond: Cond) -> Callable[[Tensor, Tensor], Tensor]:
        """The network with its condition inside: x (B, ...), time () or (B,) -> its output."""


def spread(value: Tensor, x: Tensor) -> Tensor:
    """Shape a scalar () or a value per sample (B,) to broadcast against x (B, ...), on x's device and in x's dtype."""
    value = value.to(device=x.device, dtype=x.dtype)
    return value if value.ndim == 0 else value.view(-1, *[1] * (x.ndim - 1))


def identity(t: Tensor) -> Tensor:
    """The clock of a network that embeds the schedule's own time."""
    return t


def thousandths(t: Tensor) -> Tensor:
    """The clock ``1000 t`` of flows, whose networks have sinusoids made for the indices of a table."""
    return 1000 * t


class Denoiser(nn.Module):
    """E[x0 | x_t, cond] of a network ``net(x, time, cond)`` under a schedule and a prediction."""

    def __init__(
        self, net: nn.Module, schedule: Schedule, prediction: Prediction, clock: Callable[[Tensor], Tensor] = identity
    ) -> None:
        """clock: t -> the number that the network embeds (``1000 t`` for flows, ``log(t) / 4`` for EDM)."""
        super().__init__()
        self.net = net
        self.schedule = schedule
        self.prediction = prediction
        self.clock = clock

    def output(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The raw output of the network about x (B, ...) at t () or (B,)."""
        scaled, time = self._inputs(x, t)
        output: Tensor = self.net(scaled, time.expand(x.shape[0]), cond)
        return output

    def _inputs(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees: x scaled, and the time it embeds, shaped like t."""
        alpha, sigma = self.schedule(t)
        scale = spread(self.prediction.scale(alpha, sigma), x)
        return scale * x, self.clock(t).to(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))

    def from_output(self, x: Tensor, t: Tensor, output: Tensor) -> Estimate:
        """x0, and the variance mix if one is learned, from the network's output."""
        alpha, sigma = self.schedule(t)
        mix = None
        prediction = self.prediction
        if isinstance(prediction, LearnedRange):
            output, mix = prediction.split(output)
            prediction = prediction.inner
        return Estimate(prediction.clean(x, output, _host(alpha, x), _host(sigma, x)), mix)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        """x0: x (B, ...), t () or (B,) -> (B, ...)."""
        return self.from_output(x, t, self.output(x, t, cond)).clean

    def bind(self, cond: Cond = Cond()) -> Bound:
        """Fix the condition; a ``Preparable`` network does its share of the work here, once."""
        if not isinstance(self.net, Preparable):
            return Bound(self.schedule, lambda x, t: self.from_output(x, t, self.output(x, t, cond)))
        output_of = self.net.prepare(cond)
        return Bound(self.schedule, lambda x, t: self.from_output(x, t, output_of(*self._inputs(x, t))))


def _host(value: Tensor, x: Tensor) -> Tensor:
    # A scalar stays where it is (float64 on the host costs nothing and keeps x's dtype); a batch moves to x.
    return value if value.ndim == 0 else spread(value, x)


def change_schedule(inner: DenoiserLike, schedule: Schedule, cond: Cond) -> Bound:
    """The same denoiser on another path, so that any model runs on any schedule.

    At u with equal sigma / alpha, x_t times the ratio of the paths' sizes is distributed as the inner path's x_u. The
    size hypot(alpha, sigma) is never 0, so alpha = 0 and sigma = 0 are exact. A model is never asked beyond its
    noisiest level: noisier x_t, such as pure noise for a model that never saw any, is read as if at that level.
    """
    bound = inner.bind(cond)
    last_alpha, last_sigma = bound.schedule(torch.tensor(bound.schedule.noisiest, dtype=torch.float64))
    noisiest = float(last_sigma / last_alpha)

    def estimate(x: Tensor, t: Tensor) -> Estimate:
        alpha, sigma = schedule(t)
        u = bound.schedule.time((sigma / alpha).clamp(max=noisiest))
        inner_alpha, inner_sigma = bound.schedule(u)
        scale = torch.hypot(inner_alpha, inner_sigma) / torch.hypot(alpha, sigma)
        return bound.estimate(_host(scale, x) * x, u)

    return Bound(schedule, estimate)
