"""The table of samplers: every entry runs with the evaluations it claims, every alias points to one."""

from __future__ import annotations

import pytest
import torch

from core.grid import GRIDS, trailing
from core.random import SamplingRNG
from core.sample import ALIASES, DETERMINISTIC, SAMPLERS, STOCHASTIC, run
from core.schedule import EDM
from core.verify.orders import counted, three_gaussians


def test_names_do_not_collide() -> None:
    assert len(SAMPLERS) == len(DETERMINISTIC) + len(STOCHASTIC)
    assert all(info.stochastic for info in STOCHASTIC.values())
    assert not any(info.stochastic for info in DETERMINISTIC.values())


def test_aliases_point_to_samplers_and_grids() -> None:
    for alias, (name, grid) in ALIASES.items():
        assert name in SAMPLERS, alias
        assert grid is None or grid in GRIDS, alias
        assert alias not in SAMPLERS, alias


@pytest.mark.parametrize("name", [name for name, info in STOCHASTIC.items() if name != "restart"])
def test_evaluations_are_the_claimed_ones(name: str) -> None:
    schedule = EDM()
    times, noise = trailing(schedule, 6), SamplingRNG(0, range(2))
    denoise, calls = counted(three_gaussians().denoiser(schedule))
    x = noise.start((2,)) * 80
    states = [step.x for step in SAMPLERS[name].sampler(denoise, x, times, noise)]
    inner = SAMPLERS[name].count(6)
    assert len(states) == 6
    assert len(calls) in (inner, inner + SAMPLERS[name].evaluations - 1)
    assert torch.isfinite(run(iter(SAMPLERS[name].sampler(denoise, x, times, noise)))).all()


def test_names_of_classes_are_those_of_diffusers() -> None:
    import diffusers

    assert all(hasattr(diffusers, alias) for alias in ALIASES if alias.endswith("Scheduler"))
