"""DDIM (2010.02502): the non-Markovian family between the probability-flow step and DDPM.

    x_t = alpha_t x0 + sqrt(sigma_t^2 - s^2) eps + s z,    s = eta sqrt(beta-tilde)    (equations 12 and 16)

eta = 0 is deterministic and eta = 1 is DDPM with its small variance, on every path.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from core.denoiser import Bound
from core.sample.ancestral import euler_ancestral
from core.sample.step import NoiseSource, Step


def ddim(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource, *, eta: float = 0.0) -> Iterator[Step]:
    """DDIM with stochasticity eta. One evaluation a step."""
    return euler_ancestral(denoise, x, times, noise, eta=eta)
