"""DPM-Solver++ (2211.01095) beside 2M: singlestep 2S and 3S, multistep 3M.

3M, as published code has it, is of second order; ``exponential`` with order 3 is the form that reaches the third.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from core.denoiser import Bound
from core.sample.dpm import two_points
from core.sample.solvers.exponential import second_order, third_order
from core.sample.solvers.polynomial import phi
from core.sample.step import Level, NoiseSource, Step, toward
from core.sample.walk import Seen, multistep, one_step


def dpmpp_2s(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """DPM-Solver++ 2S: order 2, two evaluations a step."""
    return one_step(denoise, x, times, second_order)


def dpmpp_3s(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """DPM-Solver++ 3S: order 3, three evaluations a step."""
    return one_step(denoise, x, times, third_order)


def dpmpp_3m(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """DPM-Solver++ 3M as k-diffusion and diffusers have it: one evaluation a step, and order 2, not 3.

    Their second difference estimates ``h^2 x0'' / 2`` and is used as ``h^2 x0''``. It stays for pictures made with it.
    """
    return multistep(denoise, x, times, _three, order=3)


def _three(past: Sequence[Seen], there: Level) -> Tensor:
    if len(past) < 3:
        return two_points(past, there)
    step = there.half_log_snr - past[0].level.half_log_snr
    gaps = [(new.level.half_log_snr - old.level.half_log_snr) / step for new, old in zip(past, past[1:])]
    newer = (past[0].clean - past[1].clean) / gaps[0]
    older = (past[1].clean - past[2].clean) / gaps[1]
    curve = (newer - older) / (gaps[0] + gaps[1])
    slope = newer + gaps[0] * curve
    x = toward(past[0].x, past[0].clean, past[0].level, there)
    return x + there.alpha * step * (phi(2, -step) * slope + phi(3, -step) * curve)
