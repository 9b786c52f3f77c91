"""Ancestral samplers of two evaluations a step: a solver's step to a cleaner level, then fresh noise up to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from core.denoiser import Bound
from core.sample.heun import is_far
from core.sample.renoise import KeepRule, ddim_rule, split
from core.sample.step import Level, NoiseSource, Step, level_at, levels, toward


def dpm2_ancestral(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    rule: KeepRule = ddim_rule,
) -> Iterator[Step]:
    """DPM2, the midpoint rule in sigma / alpha, with renoising. Two evaluations a step, see ``_two_stage``."""
    return _two_stage(denoise, x, times, noise, _midpoint, eta, s_noise, rule)


def dpmpp_2s_ancestral(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    rule: KeepRule = ddim_rule,
) -> Iterator[Step]:
    """DPM-Solver++(2S) (2211.01095, algorithm 1) with renoising. Two evaluations a step, see ``_two_stage``."""
    return _two_stage(denoise, x, times, noise, _exponential_midpoint, eta, s_noise, rule)


Stage = Callable[[Tensor, Tensor, Tensor, Level, Level, Level], Tensor]


def _two_stage(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    stage: Stage,
    eta: float,
    s_noise: float,
    rule: KeepRule,
) -> Iterator[Step]:
    """Evaluate x0 again halfway down in log(sigma / alpha); a step from pure noise or to clean data has no middle and
    takes one evaluation."""
    path = levels(denoise.schedule, times)
    for index, (here, there) in enumerate(zip(path, path[1:])):
        clean = denoise(x, here.t)
        down, fresh = split(there, rule(here, there, eta))
        if here.alpha > 0 and down.sigma > 0:
            middle = level_at(denoise.schedule, (here.half_log_snr + down.half_log_snr) / 2)
            inner = denoise(toward(x, clean, here, middle), middle.t)
            x = stage(x, clean, inner, here, middle, down)
        else:
            x = toward(x, clean, here, down)
        if fresh > 0:
            x = x + s_noise * fresh * noise.normal(x, index)
        yield Step(index, there.t, x, clean)


def _midpoint(x: Tensor, clean: Tensor, inner: Tensor, here: Level, middle: Level, down: Level) -> Tensor:
    if is_far(here, down):
        return toward(x, clean, here, down)
    # The noise seen at the middle is eps + (clean - inner) / r_middle; it is followed over all of r_down - r_here.
    correction = down.alpha * (here.ratio - down.ratio) / middle.ratio
    return toward(x, clean, here, down) + correction * (inner - clean)


def _exponential_midpoint(x: Tensor, clean: Tensor, inner: Tensor, here: Level, middle: Level, down: Level) -> Tensor:
    return toward(x, inner, here, down)
