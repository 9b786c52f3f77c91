"""DPM-Solver++ (2211.01095) apart from 2M: singlestep 2S and 3S, multistep 3M.

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
from core.sample.walk import Evaluation, multistep, one_step


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


def _three(history: Sequence[Evaluation], there: Level) -> Tensor:
    if len(history) < 3:
        return two_points(history, there)
    step = there.half_log_snr - history[0].level.half_log_snr
    gaps = [(new.level.half_log_snr - old.level.half_log_snr) / step for new, old in zip(history, history[1:])]
    newer = (history[0].clean - history[1].clean) / gaps[0]
    older = (history[1].clean - history[2].clean) / gaps[1]
    curve = (newer - older) / (gaps[0] + gaps[1])
    slope = newer + gaps[0] * curve
    x = toward(history[0].x, history[0].clean, history[0].level, there)
    return x + there.alpha * step * (phi(2, -step) * slope + phi(3, -step) * curve)
