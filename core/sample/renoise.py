"""What every stochastic sampler is made of: keep the estimate of x0 and replace part of the noise by fresh noise.

With ``eps = (x_s - alpha_s x0) / sigma_s``, the noise in x_s as the estimate tells it,

    x_t = alpha_t x0 + sigma_t (kept eps + sqrt(1 - kept^2) z),    0 <= kept <= 1.

Whatever ``kept`` is, x_t has the right marginal if the estimate was right; kept = 1 is the deterministic update. A
sampler chooses ``kept`` by a rule (from, to, eta), where eta = 0 keeps all and eta = 1 is the diffusion SDE itself.
``kept`` is dimensionless, so one rule serves every path; alpha = 0 and sigma = 0 are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from core.sample.step import Level

KeepRule = Callable[[Level, Level, float], float]


def shrink(here: Level, there: Level) -> float:
    """The quotient of the ratios sigma / alpha there and here, in [0, 1]; 0 from pure noise."""
    if there.alpha == 0:
        return 1.0
    return there.sigma * here.alpha / (there.alpha * here.sigma)


def ddim_rule(here: Level, there: Level, eta: float) -> float:
    """DDIM's rule (2010.02502, equation 16): the fresh variance is eta^2 times that of q(x_t | x_s, x0)."""
    return math.sqrt(max(0.0, 1 - eta**2 + (eta * shrink(here, there)) ** 2))


def exponential_rule(here: Level, there: Level, eta: float) -> float:
    """DPM-Solver++'s rule (2211.01095): the noise decays by exp(-eta h) over a step h of log(alpha / sigma)."""
    return shrink(here, there) ** eta


def flow_rule(here: Level, there: Level, eta: float) -> float:
    """Rectified flow's ancestral rule: step down to sigma (1 + eta (sigma / sigma_here - 1)), and noise back up.

    sigma is read on the straight path, sigma / (alpha + sigma), so that the rule is defined on every path.
    """
    above, below = (level.sigma / (level.alpha + level.sigma) for level in (here, there))
    down = below * (1 + eta * (below / above - 1))
    return max(0.0, down * (1 - below) / ((1 - down) * below)) if 0 < below < 1 else shrink(here, there) ** eta


def split(there: Level, kept: float) -> tuple[Level, float]:
    """The level that holds x0 and the kept noise only, to go ``toward``, and the deviation of the fresh noise."""
    return Level(there.t, there.alpha, there.sigma * kept), there.sigma * math.sqrt((1 - kept) * (1 + kept))


def diffuse(here: Level, there: Level) -> tuple[float, float]:
    """The forward kernel q(x_there | x_here) = N(a x_here, b^2), to a noisier level: (a, b)."""
    carry = there.alpha / here.alpha
    return carry, math.sqrt(max(0.0, there.sigma**2 - (carry * here.sigma) ** 2))
