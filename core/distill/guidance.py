"""Guidance distillation: one pass of a student is what guidance makes of two passes of its teacher (2210.03142).

    loss = E  w(log-SNR) || student(x_t, cond, g) - guided(x_t, cond, g) ||^2
    guided(x_t, cond, g) = teacher(x_t, null) + g (teacher(x_t, cond) - teacher(x_t, null))

The student takes g as ``cond.guidance``, which is drawn for each sample, so that one student serves every guidance in
the range. Sample it with ``guide=embed_guidance``, which sets ``cond.guidance`` and makes one call of the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, Denoiser, DenoiserLike, change_schedule, spread
from core.distill.teacher import Teacher
from core.guidance import Guided, LinearRule, Rule
from core.objective import Density, Losses, Objective, Weight, average, output_weight, uniform, unit
from core.prediction import X0, LearnedRange, Prediction
from core.random import Stream, TrainingRNG
from core.schedule import Schedule


class GuidanceDistillation(Objective):
    """The squared error between a student with a guidance embedding and its teacher under that guidance."""

    def __init__(
        self,
        teacher: Teacher,
        null: Callable[[int], Cond],
        scales: tuple[float, float] = (1.0, 8.0),
        times: Density = uniform,
        weight: Weight = unit,
        rule: Rule = LinearRule(),
    ) -> None:
        """null: of the conditioner that student and teacher share; scales: between which g is uniform.

        times and weight: as of any objective, in x0's terms. Raises ValueError for scales that are no range.
        """
        super().__init__(times, weight)
        if not -float("inf") < scales[0] <= scales[1] < float("inf"):
            raise ValueError(f"guidance from {scales[0]} to {scales[1]} is no range: give the lower scale first")
        self.teacher = teacher
        self.null = null
        self.scales = scales
        self.rule = rule

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Cond, rng: TrainingRNG, quantiles: Tensor | None = None
    ) -> Losses:
        """The loss of what is diffused, x (B, ...); ``quantiles`` (B,) in [0, 1) fixes the noise levels."""
        t = self.times(denoiser.schedule, self.quantiles(rng) if quantiles is None else quantiles)
        alpha, sigma = denoiser.schedule(t)
        a, s = spread(alpha, x), spread(sigma, x)
        x_t = a * x + s * self.coupling(x, rng.normal(x, Stream.NOISE))
        scale = self.guidance_scales(rng).to(x)
        output = denoiser.output(x_t, t, dataclasses.replace(cond, guidance=scale))
        prediction = denoiser.prediction
        if isinstance(prediction, LearnedRange):
            output, prediction = prediction.split(output)[0], prediction.inner
        teacher_x0 = self.teacher_x0(denoiser, x_t, t, cond, scale)
        error = average((output - _target(prediction, x_t, teacher_x0, a, s)) ** 2, cond.valid)
        each = error * output_weight(self.weight, prediction, alpha, sigma).to(error)
        return Losses(each.mean(), each.detach(), t)

    def guidance_scales(self, rng: TrainingRNG) -> Tensor:
        """The guidance of each sample of a batch: (B,), float64 on the host."""
        low, high = self.scales
        # Independent of the places in time, which are even over the batch: two even draws would move in step.
        return low + (high - low) * rng.uniform(Stream.LABEL)

    @torch.no_grad()
    def teacher_x0(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Cond, scale: Tensor) -> Tensor:
        """x0 as the teacher sees it under guidance ``scale`` (B,): (B, ...)."""
        unguided = dataclasses.replace(cond, guidance=None)
        null = dataclasses.replace(self.null(1).to(x_t.device), guidance=None)
        guided = Guided(self.teacher(x_t), null, lambda _: scale, self.rule)
        same = guided.schedule == denoiser.schedule
        bound = guided.bind(unguided) if same else change_schedule(guided, denoiser.schedule, unguided)
        return bound(x_t, t)


def _target(prediction: Prediction, x_t: Tensor, clean: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What a network with this prediction says when it means ``clean``."""
    if isinstance(prediction, X0):
        return clean
    return prediction.target(clean, (x_t - alpha * clean) / sigma, alpha, sigma)


@dataclass(frozen=True)
class EmbeddedGuidance:
    """A guidance-distilled student at a fixed scale: one pass per evaluation."""

    denoiser: DenoiserLike
    scale: float

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        """Raises ValueError for an empty condition: guidance is towards something."""
        filled = [value for slot in dataclasses.fields(cond) if (value := getattr(cond, slot.name)) is not None]
        if not filled:
            raise ValueError("there is nothing to imitate guidance towards: give the student a condition")
        scale = torch.full((len(filled[0]),), float(self.scale), device=filled[0].device)
        return self.denoiser.bind(dataclasses.replace(cond, guidance=scale))


def embed_guidance(denoiser: DenoiserLike, null: Cond, scale: float) -> EmbeddedGuidance:
    """``Sampling(guide=embed_guidance)``: the guidance of a sampler goes to the student, and the null is not needed."""
    return EmbeddedGuidance(denoiser, scale)
