"""Exponential moving averages of a model, over its parameters and its buffers.

An average with decay b moves a fraction 1 - b towards the model at every step. Two profiles: a constant decay with a
warm-up, and the power function ``t^gamma`` of EDM2, whose averages can be mixed afterwards into one of any length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn


class Profile(Protocol):
    """How much of the average is kept at step n = 1, 2, ..."""

    def decay(self, step: int) -> float:
        """The fraction kept; 0 at the first step, which copies the model."""


@dataclass(frozen=True)
class Constant:
    """A constant decay, approached as (1 + n) / (10 + n)."""

    limit: float = 0.9999

    def decay(self, step: int) -> float:
        return 0.0 if step <= 1 else min(self.limit, step / (9 + step))


@dataclass(frozen=True)
class Power:
    """Weights that grow as t^gamma, the profile's width a fixed share of the run (2312.02696, equations 125 to 127).

    ``deviation`` is the profile's standard deviation relative to the run's length: 0.05 and 0.10 in the paper.
    """

    deviation: float = 0.05

    @property
    def gamma(self) -> float:
        """The exponent that gives this deviation."""
        # deviation^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), a cubic with one root above -1.
        inverse = self.deviation**-2
        roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
        return float(roots.real.max())

    def decay(self, step: int) -> float:
        return 0.0 if step <= 1 else (1 - 1 / step) ** (self.gamma + 1)


class EMA:
    """Averages of a module's state, one for each profile."""

    def __init__(self, module: nn.Module, profiles: Mapping[str, Profile]) -> None:
        """profiles: name -> profile; at least one."""
        if not profiles:
            raise ValueError("an EMA needs at least one profile")
        self.profiles = dict(profiles)
        self.step = 0
        self._live: dict[str, Tensor] = dict(module.state_dict(keep_vars=True))
        self.averages = {
            name: {key: value.detach().clone() for key, value in self._live.items()} for name in self.profiles
        }
        self._pairs = {name: self._split(average) for name, average in self.averages.items()}

    def _split(self, average: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Floating-point tensors to average, each with its live one, and pairs of others to copy."""
        floats = [key for key, value in self._live.items() if value.is_floating_point()]
        rest = [(average[key], value) for key, value in self._live.items() if not value.is_floating_point()]
        return [_mine(average[key]) for key in floats], [_mine(self._live[key]) for key in floats], rest

    @torch.no_grad()
    def update(self) -> None:
        """Move every average towards the module as it is now."""
        self.step += 1
        for name, profile in self.profiles.items():
            averages, live, rest = self._pairs[name]
            torch._foreach_lerp_(averages, live, 1 - profile.decay(self.step))
            for mine, theirs in rest:
                mine.copy_(theirs)

    @contextmanager
    def swapped(self, name: str | None = None) -> Iterator[None]:
        """The module holds the average called ``name`` (by default the first) inside the with block."""
        average = self.averages[name or next(iter(self.averages))]
        with torch.no_grad():
            kept = {key: value.detach().clone() for key, value in self._live.items()}
            for key, value in self._live.items():
                value.copy_(average[key])
            try:
                yield
            finally:
                for key, value in self._live.items():
                    value.copy_(kept[key])

    def state_dict(self) -> dict[str, Tensor]:
        """Every average under ``<profile>/<key>``, and the step."""
        state = {f"{name}/{key}": value for name, average in self.averages.items() for key, value in average.items()}
        return state | {"step": torch.tensor(self.step)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state_dict``. Raises ValueError unless profiles and keys are the same."""
        own = self.state_dict()
        if own.keys() != state.keys():
            raise ValueError("the averages in this checkpoint are of another model or have other profiles")
        self.step = int(state["step"])
        for name, average in self.averages.items():
            for key, value in average.items():
                value.copy_(state[f"{name}/{key}"])


def _mine(value: Any) -> Tensor:
    """This process's part of a tensor that is spread over processes; averaging needs no other."""
    part: Tensor = value.detach().to_local() if hasattr(value, "to_local") else value
    return part


def correlation(gamma_a: float, step_a: float, gamma_b: float, step_b: float) -> float:
    """The inner product of two power-function profiles that end at two steps (2312.02696, equation 148)."""
    ratio = step_a / step_b
    late = gamma_b if ratio < 1 else gamma_a
    log = math.log(gamma_a + 1) + math.log(gamma_b + 1) - math.log(gamma_a + gamma_b + 1)
    return math.exp(log + (late * math.log(min(ratio, 1 / ratio)) if late else 0.0)) / max(step_a, step_b)


def post_hoc(
    snapshots: Sequence[Mapping[str, Tensor]], profiles: Sequence[tuple[Power, int]], target: Power, step: int
) -> dict[str, Tensor]:
    """The average of another length, made afterwards of stored ones (2312.02696, algorithm 3).

    snapshots: states of averages, each with its (profile, step); the least-squares mix of their profiles is the
    closest to ``target`` at ``step``. Weights sum to nearly 1; solved in float64.
    """
    if len(snapshots) != len(profiles) or not snapshots:
        raise ValueError("give one (profile, step) for each stored average, and at least one")
    gammas = [profile.gamma for profile, _ in profiles]
    steps = [taken for _, taken in profiles]
    gram = [[correlation(a, s, b, u) for b, u in zip(gammas, steps)] for a, s in zip(gammas, steps)]
    wanted = [correlation(a, s, target.gamma, step) for a, s in zip(gammas, steps)]
    weights = np.linalg.lstsq(np.array(gram), np.array(wanted), rcond=None)[0]
    mixed: dict[str, Tensor] = {}
    for key, value in snapshots[-1].items():
        if value.is_floating_point():
            total = sum(w * snapshot[key].double() for w, snapshot in zip(weights.tolist(), snapshots))
            mixed[key] = torch.as_tensor(total).to(value.dtype)
        else:
            mixed[key] = value.clone()
    return mixed
