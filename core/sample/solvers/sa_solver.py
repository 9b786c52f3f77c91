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
from core.sample.renoise import exponential_rule, split
from core.sample.solvers.sde import exponential_step
from core.sample.step import Level, NoiseSource, Step, levels
from core.sample.walk import Evaluation, evaluate, extend_history, is_inner

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
    evaluates again after a correction, the second evaluation of a step. Raises ValueError for a predictor below 1 or a
    corrector below 0.
    """
    if predictor < 1 or corrector < 0:
        raise ValueError("sa_solver needs a predictor of order 1 or more and a corrector of order 0 (none) or more")
    history: list[Evaluation] = []
    before = x
    fresh: Tensor | float = 0.0
    eta = 0.0
    for index, (here, there) in enumerate(pairwise(levels(denoise.schedule, times))):
        current = evaluate(denoise, x, here)
        if history and corrector and is_inner(history[0].level, here):
            x = exponential_step(before, history[0].level, [current, *history][:corrector], here, eta) + fresh
            current = evaluate(denoise, x, here) if reevaluate else current
        history = extend_history(history, current, max(predictor, corrector))
        before, eta = x, tau(here) ** 2
        deviation = split(there, exponential_rule(here, there, eta))[1]
        fresh = deviation * noise.normal(x, index) if deviation > 0 else 0.0
        x = exponential_step(before, here, (history or [current])[:predictor], there, eta) + fresh
        yield Step(index, there.t, x, current.clean)
