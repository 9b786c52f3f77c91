"""SA-Solver (2309.05019): stochastic Adams methods, predictor and corrector, for the variance-controlled SDE.

tau(level) says how stochastic the reverse process is: 0 the probability-flow ODE, 1 the diffusion SDE. Constant over a
step, it is the SDE of ``core/sample/solvers/sde.py`` with eta = tau^2 (equation 14): the predictor integrates the
polynomial through the last estimates of x0, the corrector that through the new estimate too, with the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from core.denoiser import Bound
from core.sample.renoise import exponential, split
from core.sample.solvers.sde import follow
from core.sample.step import Level, NoiseSource, Step, levels
from core.sample.walk import Seen, is_inner, look, remember

Tau = Callable[[Level], float]


def constant(value: float) -> Tau:
    """The same stochasticity at every level."""
    return lambda level: value


def window(low: float, high: float, value: float = 1.0) -> Tau:
    """Stochastic only where sigma / alpha lies in [low, high], as in the paper's experiments."""
    return lambda level: value if low <= level.ratio <= high else 0.0


def sa_solver(
    denoise: Bound,
    x: Tensor,
    times: Tensor,
    noise: NoiseSource,
    *,
    tau: Tau = window(0.05, 1.0),
    predictor: int = 3,
    corrector: int = 3,
    reevaluate: bool = False,
) -> Iterator[Step]:
    """Predict, evaluate, correct: one evaluation a step, for the end of a step is the start of the next.

    predictor and corrector: how many estimates each polynomial goes through, the corrector's new one included;
    corrector 0 is none. They are fewer where the history is short, and the last step is not corrected. ``reevaluate``
    looks again after a correction, the second evaluation of a step. Raises ValueError for a predictor below 1 or a
    corrector below 0.
    """
    if predictor < 1 or corrector < 0:
        raise ValueError("sa_solver needs a predictor of order 1 or more and a corrector of order 0 (none) or more")
    past: list[Seen] = []
    before = x
    fresh: Tensor | float = 0.0
    eta = 0.0
    for index, (here, there) in enumerate(pairwise(levels(denoise.schedule, times))):
        seen = look(denoise, x, here)
        if past and corrector and is_inner(past[0].level, here):
            x = follow(before, past[0].level, [seen, *past][:corrector], here, eta) + fresh
            seen = look(denoise, x, here) if reevaluate else seen
        past = remember(past, seen, max(predictor, corrector))
        before, eta = x, tau(here) ** 2
        deviation = split(there, exponential(here, there, eta))[1]
        fresh = deviation * noise.normal(x, index) if deviation > 0 else 0.0
        x = follow(before, here, (past or [seen])[:predictor], there, eta) + fresh
        yield Step(index, there.t, x, seen.clean)
