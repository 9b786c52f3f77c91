"""Guidance: from two or more estimates of the clean data, one that is better than each.

Every class is a denoiser made of denoisers: it has a schedule, ``bind(cond)`` gives a ``Bound``, and so guidance nests
in any order. A *null* is the condition of the unwanted branch: that of a dropped label or prompt, or a negative prompt.
The slots it leaves empty stay as in the condition, as in the training that drops conditions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, DenoiserLike, Estimate, change_schedule, spread
from core.guidance.rules import LinearRule, Rule, perpendicular
from core.prediction import X0, Prediction
from core.schedule import Schedule

Scale = float | Callable[[Tensor], Tensor]  # a number, or t -> scale, () or one a sample (B,)
Branches = Callable[[Tensor, Tensor], list[Estimate]]  # x (B, ...), t -> an estimate for each condition


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (2207.12598): away from the null, through the condition.

    scale 1 is the plain conditional denoiser and 0 the unconditional one, each for one evaluation. A negative prompt is
    a null. ``batched`` evaluates both branches in one batch; without it, in two calls that need half the memory and
    may have prompts of different lengths.
    """

    denoiser: DenoiserLike
    null: Cond
    scale: Scale
    rule: Rule = field(default_factory=LinearRule)
    batched: bool = True

    def __post_init__(self) -> None:
        _check(self.scale)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        if self.scale == 1:
            return self.denoiser.bind(cond)
        unwanted = substitute(cond, self.null)
        if self.scale == 0:
            return self.denoiser.bind(unwanted)
        return _guide(self.schedule, _branches(self.denoiser, [cond, unwanted], self.batched), self.scale, self.rule)


@dataclass(frozen=True)
class Autoguided:
    """Autoguidance (2406.02507): away from a worse version of the model, under the same condition.

    The worse one is smaller, less trained, or the same with layers skipped; ``Guided(worse, null, 0)`` makes it
    unconditional too. It may live on another schedule.
    """

    good: DenoiserLike
    bad: DenoiserLike
    scale: Scale
    rule: Rule = field(default_factory=LinearRule)

    def __post_init__(self) -> None:
        _check(self.scale)

    @property
    def schedule(self) -> Schedule:
        return self.good.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        good = self.good.bind(cond)
        if self.scale == 1:
            return good
        same = self.bad.schedule == self.good.schedule
        bad = self.bad.bind(cond) if same else change_schedule(self.bad, self.schedule, cond)
        return _guide(self.schedule, lambda x, t: [good.estimate(x, t), bad.estimate(x, t)], self.scale, self.rule)


@dataclass(frozen=True)
class Composed:
    """Several prompts at once (2206.01714, equation 11): ``null + sum of weight (prompt - null)``.

    The condition it is bound to has weight ``scale``; each of ``others`` comes with its own, below 0 for "not".
    """

    denoiser: DenoiserLike
    null: Cond
    scale: float
    others: Sequence[tuple[Cond, float]]
    batched: bool = True

    def __post_init__(self) -> None:
        for weight in (self.scale, *(weight for _, weight in self.others)):
            _check(weight)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        prompts = [(cond, self.scale)] + [(substitute(cond, other), weight) for other, weight in self.others]
        prompts = [(prompt, weight) for prompt, weight in prompts if weight != 0]
        branches = _branches(
            self.denoiser, [prompt for prompt, _ in prompts] + [substitute(cond, self.null)], self.batched
        )

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            *wanted, null = branches(x, t)
            change = sum(weight * (each.clean - null.clean) for each, (_, weight) in zip(wanted, prompts))
            return Estimate(null.clean + change, (wanted or [null])[0].mix)

        return Bound(self.schedule, estimate)


@dataclass(frozen=True)
class PerpendicularNegative:
    """Perp-Neg (2304.04968): of the step away from a negative prompt, only the part that leaves the condition alone."""

    denoiser: DenoiserLike
    null: Cond
    negative: Cond
    scale: float
    weight: float
    batched: bool = True

    def __post_init__(self) -> None:
        _check(self.scale)
        _check(self.weight)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        conds = [cond, substitute(cond, self.negative), substitute(cond, self.null)]
        branches = _branches(self.denoiser, conds, self.batched)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            wanted, negative, null = branches(x, t)
            toward = wanted.clean - null.clean
            away = perpendicular(negative.clean - null.clean, toward)
            return Estimate(null.clean + self.scale * (toward - self.weight * away), wanted.mix)

        return Bound(self.schedule, estimate)


def plus_plus(schedule: Schedule, times: Tensor, strength: float) -> Callable[[Tensor], Tensor]:
    """CFG++ (2406.08070, algorithm 1) as a scale for ``Guided``: x0 is guided by ``strength``, the noise is the null's.

    On a step of DDIM between the noise ratios r and r' that is plain guidance by ``strength / (1 - r' / r)``. times:
    (N + 1,), the sampler's. Exact for DDIM; between its times the scale of the step is constant.
    """
    alpha, sigma = schedule(times.double())
    # The inverse ratio: pure noise is 0 and clean data infinite.
    inverse = alpha / sigma
    scales = strength / (1 - inverse[:-1] / inverse[1:])

    def scale(t: Tensor) -> Tensor:
        passed = (times.to(t) >= t.unsqueeze(-1)).sum(-1)
        return scales.to(t)[(passed - 1).clamp(0, len(scales) - 1)]

    return scale


def substitute(cond: Cond, null: Cond) -> Cond:
    """The condition with the filled slots of ``null`` in place of its own; a null of batch 1 serves every sample.

    Raises ValueError if the null fills a slot that the condition leaves empty, or has another batch.
    """
    slots: dict[str, Tensor] = {}
    for slot in dataclasses.fields(null):
        mine, other = getattr(cond, slot.name), getattr(null, slot.name)
        if other is None:
            continue
        if mine is None:
            raise ValueError(f"the null fills the condition slot '{slot.name}', which the condition leaves empty")
        if len(other) not in (1, len(mine)):
            raise ValueError(
                f"the null has a batch of {len(other)}, the condition of {len(mine)}: give it 1 or as many"
            )
        slots[slot.name] = other.to(mine).expand(len(mine), *other.shape[1:])
    return dataclasses.replace(cond, **slots)


def levels_at(schedule: Schedule, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma, shaped to broadcast against x; scalars keep the precision of t."""
    alpha, sigma = schedule(t)
    return (alpha, sigma) if t.ndim == 0 else (spread(alpha, x), spread(sigma, x))


def _check(scale: Scale) -> None:
    if not callable(scale) and not math.isfinite(scale):
        raise ValueError(f"the guidance scale must be a finite number, not {scale}")


def _branches(denoiser: DenoiserLike, conds: list[Cond], batched: bool) -> Branches:
    """The denoiser under several conditions, in one batch or one after the other."""
    if not batched:
        bounds = [denoiser.bind(cond) for cond in conds]
        return lambda x, t: [bound.estimate(x, t) for bound in bounds]
    for slot in dataclasses.fields(conds[0]):
        shapes = {value.shape[1:] for cond in conds if (value := getattr(cond, slot.name)) is not None}
        if len(shapes) > 1:
            raise ValueError(
                f"the branches' condition slots '{slot.name}' differ in shape: pad them alike, or set batched=False"
            )
    bound, count = denoiser.bind(Cond.cat(conds)), len(conds)

    def evaluate(x: Tensor, t: Tensor) -> list[Estimate]:
        clean, mix = bound.estimate(torch.cat([x] * count), t if t.ndim == 0 else t.repeat(count))
        mixes = [None] * count if mix is None else mix.chunk(count)
        return [Estimate(*branch) for branch in zip(clean.chunk(count), mixes)]

    return evaluate


def _guide(schedule: Schedule, pair: Branches, scale: Scale, rule: Rule) -> Bound:
    """Combine [wanted, unwanted] by a rule, in the rule's space; the variance is the wanted branch's."""
    combine, space = rule.start(), rule.space

    def estimate(x: Tensor, t: Tensor) -> Estimate:
        wanted, unwanted = pair(x, t)
        alpha, sigma = levels_at(schedule, t, x)
        amount = _spread(scale(t), x) if callable(scale) else scale
        near, far = (_output(space, x, each.clean, alpha, sigma) for each in (wanted, unwanted))
        return Estimate(space.clean(x, combine(near, far, amount), alpha, sigma), wanted.mix)

    return Bound(schedule, estimate)


def _spread(value: Tensor, x: Tensor) -> Tensor:
    return value if value.ndim == 0 else spread(value, x)


def _output(space: Prediction, x: Tensor, clean: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The output of a network with this prediction whose x0 is ``clean``."""
    if isinstance(space, X0):
        return clean
    return space.target(clean, (x - alpha * clean) / sigma, alpha, sigma)
