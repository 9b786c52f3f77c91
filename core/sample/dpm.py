"""DPM-Solver++ 2M (2211.01095): x0 is expanded in h, the step in half log-SNR.

Its kin (2S, 3S, 3M) are in ``core.sample.solvers.dpm``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from core.denoiser import Bound
from core.sample.step import Level, NoiseSource, Step, toward
from core.sample.walk import Evaluation, multistep


def dpmpp_2m(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """DPM-Solver++ 2M (algorithm 2, the midpoint form): order 2, one evaluation a step."""
    return multistep(denoise, x, times, two_points, order=2)


def two_points(history: Sequence[Evaluation], there: Level) -> Tensor:
    """The step with x0 linear through its start and what was seen before."""
    here = history[0]
    if len(history) == 1:
        return toward(here.x, here.clean, here.level, there)
    step = there.half_log_snr - here.level.half_log_snr
    slope = (here.clean - history[1].clean) / (here.level.half_log_snr - history[1].level.half_log_snr)
    return toward(here.x, here.clean + step / 2 * slope, here.level, there)
