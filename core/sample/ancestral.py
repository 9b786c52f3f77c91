"""Ancestral Euler: a step to a cleaner level than asked for, then fresh noise up to it.

k-diffusion's form on alpha = 1, rectified flow's form and the variance-preserving one are the same renoising update
(core/sample/renoise.py) and differ in the rule that says how much noise is kept: ``ddim_rule`` is k-diffusion's
sigma_down and sigma_up, ``flow_rule`` is that of flow models. Its kin of order 2 are in
``core.sample.solvers.ancestral``.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from core.denoiser import Bound
from core.sample.renoise import KeepRule, ddim_rule, split
from core.sample.step import NoiseSource, Step, levels, toward


def euler_ancestral(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    rule: KeepRule = ddim_rule,
) -> Iterator[Step]:
    """Euler's step with renoising; ``s_noise`` scales the fresh noise. One evaluation a step."""
    path = levels(denoise.schedule, times)
    for index, (here, there) in enumerate(zip(path, path[1:])):
        clean = denoise(x, here.t)
        down, fresh = split(there, rule(here, there, eta))
        x = toward(x, clean, here, down)
        if fresh > 0:
            x = x + s_noise * fresh * noise.normal(x, index)
        yield Step(index, there.t, x, clean)
