"""Adams methods on the noise: eps is a polynomial, in sigma / alpha (LMS) or in log-SNR (DEIS), integrated exactly.

Both continue ``d(x / alpha) / dr = eps`` with r = sigma / alpha by a weighted mean of the noises seen. They differ in
the variable of the polynomial: r itself in k-diffusion's linear multistep sampler, log r in DEIS (2204.13902, as
published code has it), where r spans decades.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from core.denoiser import Bound
from core.sample.heun import slope_correction
from core.sample.solvers.exponential import second_order, third_order
from core.sample.solvers.polynomial import exponential_moments, weights
from core.sample.step import Level, NoiseSource, Step, toward
from core.sample.walk import Evaluation, OneStep, multistep


def lms(
    denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource, order: int = 4, start: OneStep | None = third_order
) -> Iterator[Step]:
    """Order ``order``, one evaluation a step; the first ``order - 2`` steps are taken by ``start``.

    sigma / alpha is 0 at clean data, and so the polynomial is followed to there as well.
    """
    return multistep(denoise, x, times, _in_ratio, order, start, defined=_is_finite)


def deis(
    denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource, order: int = 3, start: OneStep | None = second_order
) -> Iterator[Step]:
    """Order ``order``, one evaluation a step; the first ``order - 2`` steps are taken by ``start``."""
    return multistep(denoise, x, times, _in_log_snr, order, start)


def _is_finite(here: Level, there: Level) -> bool:
    return here.alpha > 0 and there.ratio < here.ratio


def _in_ratio(history: Sequence[Evaluation], there: Level) -> Tensor:
    here = history[0].level
    step = there.ratio - here.ratio
    nodes = [(current.level.ratio - here.ratio) / step for current in history]
    return _mean_slope(history, there, weights(nodes, [1 / (k + 1) for k in range(len(history))]))


def _in_log_snr(history: Sequence[Evaluation], there: Level) -> Tensor:
    here = history[0].level
    step = there.half_log_snr - here.half_log_snr
    nodes = [(current.level.half_log_snr - here.half_log_snr) / step for current in history]
    moments = exponential_moments(step, len(history))
    return _mean_slope(history, there, [share / moments[0] for share in weights(nodes, moments)])


def _mean_slope(history: Sequence[Evaluation], there: Level, shares: Sequence[float]) -> Tensor:
    """Step along the mean of the noises; the shares sum to one."""
    here = history[0]
    x = toward(here.x, here.clean, here.level, there)
    for share, current in zip(shares[1:], history[1:]):
        x = slope_correction(x, here.level, there, share * (current.noise - here.noise))
    return x
