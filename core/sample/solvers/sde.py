"""DPM-Solver++ for the diffusion SDE (2211.01095): exponential integrators driven by a Brownian path.

With h the step in lambda = log(alpha / sigma) and eta the stochasticity (0 the ODE, 1 the diffusion SDE), the exact
solution is, where x0 varies along the step as u goes from 0 to 1,

    x_t = (sigma_t / sigma_s) exp(-eta h) x_s + alpha_t rate int_0^1 exp(-rate (1 - u)) x0(u) du
          + sigma_t sqrt(1 - exp(-2 eta h)) z,    rate = (1 + eta) h.

Constant x0 gives order 1, renoising by the ``exponential_rule`` rule; a polynomial through earlier estimates gives
more. The noise z is the increment of a path that depends on (seed, sample, noise level) only, so that every grid sees
the same path. From pure noise and to clean data, where h is infinite, a step uses the latest estimate alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from core.denoiser import Bound
from core.sample.renoise import ddim_rule, exponential_rule, split
from core.sample.solvers.polynomial import exponential_moments, weights
from core.sample.step import Level, NoiseSource, Step, level_at, levels, toward
from core.sample.walk import Evaluation, evaluate, extend_history, is_inner


def exponential_step(x: Tensor, here: Level, history: Sequence[Evaluation], there: Level, eta: float) -> Tensor:
    """The exact solution from x at here to there, less its fresh noise, with x0 the polynomial through ``history``.

    The values enter by their difference from the first, so that a constant x0 is followed exactly.
    """
    x = toward(x, history[0].clean, here, split(there, exponential_rule(here, there, eta))[0])
    if len(history) == 1 or not is_inner(here, there):
        return x
    width = there.half_log_snr - here.half_log_snr
    rate = (1 + eta) * width
    nodes = [(current.level.half_log_snr - here.half_log_snr) / width for current in history]
    shares = weights(nodes, exponential_moments(-rate, len(history)))
    for share, current in zip(shares[1:], history[1:]):
        x = x + there.alpha * rate * share * (current.clean - history[0].clean)
    return x


def add_noise(x: Tensor, noise: NoiseSource, here: Level, there: Level, deviation: float) -> Tensor:
    """Add the noise that the Brownian path holds between two levels."""
    return x + deviation * noise.brownian(x, here.brownian_time, there.brownian_time) if deviation > 0 else x


def dpmpp_sde(
    denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource, *, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """k-diffusion's two-stage DPM-Solver++ (SDE): the estimate halfway in lambda serves the whole step.

    Both stages see one Brownian path. Two evaluations a step, one where an end is pure noise or clean data.
    """
    for index, (here, there) in enumerate(pairwise(levels(denoise.schedule, times))):
        clean = inner = denoise(x, here.t)
        if is_inner(here, there):
            middle = level_at(denoise.schedule, (here.half_log_snr + there.half_log_snr) / 2)
            down, fresh = split(middle, ddim_rule(here, middle, eta))
            halfway = add_noise(toward(x, clean, here, down), noise, here, middle, s_noise * fresh)
            inner = denoise(halfway, middle.t)
        down, fresh = split(there, ddim_rule(here, there, eta))
        x = add_noise(toward(x, inner, here, down), noise, here, there, s_noise * fresh)
        yield Step(index, there.t, x, clean)


def exact_slope(rate: float) -> float:
    """The weight of x0's slope over a step in the exact solution (k-diffusion's "heun")."""
    return rate * exponential_moments(-rate, 2)[1]


def midpoint_slope(rate: float) -> float:
    """The weight of x0's slope if x0 is taken from the middle of the step, as in DPM-Solver++ 2M."""
    return rate * exponential_moments(-rate, 1)[0] / 2


def dpmpp_2m_sde(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    slope: Callable[[float], float] = midpoint_slope,
) -> Iterator[Step]:
    """DPM-Solver++ 2M (SDE): x0 on the line through the last two estimates. One evaluation a step."""
    history: list[Evaluation] = []
    for index, (here, there) in enumerate(pairwise(levels(denoise.schedule, times))):
        current = evaluate(denoise, x, here)
        history = extend_history(history, current, 2)
        down, fresh = split(there, exponential_rule(here, there, eta))
        x = toward(x, current.clean, here, down)
        if len(history) == 2 and is_inner(here, there):
            width = there.half_log_snr - here.half_log_snr
            rise = (current.clean - history[1].clean) / (here.half_log_snr - history[1].level.half_log_snr)
            x = x + there.alpha * slope((1 + eta) * width) * width * rise
        x = add_noise(x, noise, here, there, s_noise * fresh)
        yield Step(index, there.t, x, current.clean)


def dpmpp_3m_sde(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    curvature: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++ 3M (SDE): x0 on the parabola through the last three estimates. One evaluation a step.

    ``curvature`` is the share of the parabola's last term that is used: all of it in the exact solution; 1/2 in
    k-diffusion's code, where it costs the third order at eta = 0.
    """
    history: list[Evaluation] = []
    for index, (here, there) in enumerate(pairwise(levels(denoise.schedule, times))):
        current = evaluate(denoise, x, here)
        history = extend_history(history, current, 3)
        deterministic = exponential_step(x, here, history or [current], there, eta)
        if len(history) == 3 and is_inner(here, there) and curvature != 1:
            deterministic = deterministic - (1 - curvature) * _bend(history, there, eta)
        x = add_noise(deterministic, noise, here, there, s_noise * split(there, exponential_rule(here, there, eta))[1])
        yield Step(index, there.t, x, current.clean)


def _bend(history: Sequence[Evaluation], there: Level, eta: float) -> Tensor:
    """The quadratic term that a parabola through three estimates adds to a step."""
    first, second, third = history
    now = first.level.half_log_snr
    near = (first.clean - second.clean) / (now - second.level.half_log_snr)
    far = (second.clean - third.clean) / (second.level.half_log_snr - third.level.half_log_snr)
    width = there.half_log_snr - now
    rate = (1 + eta) * width
    share = rate * exponential_moments(-rate, 3)[2]
    return there.alpha * share * width**2 * (near - far) / (now - third.level.half_log_snr)
