"""A diffusers scheduler and one of our samplers, side by side: the same network, times and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from core.cond import Cond
from core.denoiser import Bound, Denoiser, change_schedule
from core.prediction import X0, Epsilon, Prediction, V
from core.sample.step import Sampler, Step
from core.schedule import EDM, Discrete, Schedule

SHAPE = (3, 2, 4)  # batch, channels, length
PREDICTIONS: dict[str, Prediction] = {"epsilon": Epsilon(), "sample": X0(), "v_prediction": V()}


class Net(nn.Module):
    """``sin(angle) x + cos(angle) tanh-network(x, angle)`` in float32, the angle growing with time as noise does.

    Read as epsilon, v, a velocity or x0 it keeps x near unit size, as a trained network would.
    """

    def __init__(
        self, width: int = 1, seed: int = 0, angle: Callable[[Tensor], Tensor] = lambda t: t * 1.57e-3
    ) -> None:
        """width: output channels for each of x's. angle: of the time that the network is given, 0 to pi / 2."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = SHAPE[1] * SHAPE[2]
        self.first = nn.Parameter(0.4 * torch.randn(size + 2, 24, generator=generator))
        self.second = nn.Parameter(0.3 * torch.randn(24, width * size, generator=generator))
        self.width, self.angle = width, angle

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """x (B, C, L), time () or (B,) -> (B, width C, L)."""
        angle = self.angle(time.float()).expand(x.shape[0])[:, None]
        hidden = torch.cat([x.flatten(1), angle.sin(), angle.cos()], dim=1)
        wavy = ((hidden @ self.first).tanh() @ self.second).view(x.shape[0], self.width * SHAPE[1], SHAPE[2])
        turned = torch.cat([x] + [torch.zeros_like(x)] * (self.width - 1), dim=1)
        return angle.sin()[..., None] * turned + angle.cos()[..., None] * wavy


@dataclass
class Tape:
    """The noise that a diffusers scheduler draws from ``torch.Generator().manual_seed(seed)``, in its order."""

    seed: int
    draws: int = 0
    _generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        self._generator.manual_seed(self.seed)

    def _next(self, like: Tensor) -> Tensor:
        self.draws += 1
        return torch.randn(like.shape, generator=self._generator, dtype=torch.float32).to(like)

    def normal(self, like: Tensor, step: int, part: int = 0) -> Tensor:
        return self._next(like)

    def brownian(self, like: Tensor, start: float, stop: float) -> Tensor:
        return self._next(like)


def unit_noise(seed: int = 11) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def table_of(scheduler: Any) -> Discrete:
    """The table that a scheduler computed in float32, to the bit."""
    alpha_bar = scheduler.alphas_cumprod.double()
    return Discrete(torch.cat([1 - alpha_bar[:1], 1 - alpha_bar[1:] / alpha_bar[:-1]]))


@torch.no_grad()
def theirs(scheduler: Any, net: nn.Module, x: Tensor, **step_options: Any) -> list[Tensor]:
    """Their loop, as their pipelines write it: x after every call of the network."""
    found = []
    scales = hasattr(scheduler, "scale_model_input")  # flow-matching schedulers have none
    for t in scheduler.timesteps:
        output = net(scheduler.scale_model_input(x, t) if scales else x, t)
        x = scheduler.step(output, t, x, **step_options).prev_sample
        found.append(x)
    return found


@torch.no_grad()
def ours(denoise: Bound, sampler: Sampler, x: Tensor, times: Tensor, seed: int = 0) -> list[Tensor]:
    """x after every step of our sampler."""
    return [step.x for step in walk(denoise, sampler, x, times, seed)]


def walk(denoise: Bound, sampler: Sampler, x: Tensor, times: Tensor, seed: int = 0) -> Iterator[Step]:
    return sampler(denoise, x, times, Tape(seed))


def listed_clock(levels: Sequence[float], embedded: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """The clock of a scheduler that lists what its network embeds at each noise level; other levels are an error."""
    known, answers = torch.tensor(levels, dtype=torch.float64), torch.tensor(embedded, dtype=torch.float64)

    def clock(t: Tensor) -> Tensor:
        distance = (known - t.double()).abs()
        nearest = int(distance.argmin())
        close = distance[nearest] < 1e-4 * t.abs() + 1e-6
        assert close, f"the sampler asked at {float(t)}, which the scheduler never visits"
        return answers[nearest]

    return clock


def variance_preserving(scheduler: Any, net: nn.Module, prediction: Prediction) -> Bound:
    """Our denoiser on their table."""
    return Denoiser(net, table_of(scheduler), prediction).bind()


def exploding(scheduler: Any, net: nn.Module, prediction: Prediction) -> Bound:
    """Our denoiser on their table, walked on alpha = 1, where their Euler family lives."""
    return change_schedule(Denoiser(net, table_of(scheduler), prediction), EDM(), Cond())


def listed(
    net: nn.Module, schedule: Schedule, prediction: Prediction, times: Tensor, embedded: Tensor, path: Schedule | None
) -> Bound:
    """Our denoiser with the inputs of theirs: at each of ``times``, the number they list for it."""
    denoiser = Denoiser(net, schedule, prediction, listed_clock(times.tolist(), embedded.tolist()))
    return denoiser.bind() if path is None else change_schedule(denoiser, path, Cond())


def ratios(scheduler: Any) -> Tensor:
    """Their levels, float64, repeats removed."""
    return scheduler.sigmas.double().unique_consecutive()


def worst(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference over all steps, relative to the size of x where that is above 1; NaN if anything is."""
    assert len(found) == len(expected), f"{len(found)} steps beside {len(expected)}"
    errors = [(a - b).abs().max() / b.abs().max().clamp(min=1) for a, b in zip(found, expected)]
    return float(torch.stack(errors).max().detach())


def two_calls(states: Sequence[Tensor]) -> list[Tensor]:
    """x at the ends of steps that take two calls each, but for the last, which takes one."""
    return [*states[1:-1:2], states[-1]]
