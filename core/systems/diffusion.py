"""Diffusion: the whole of a model. What it costs on a batch, and how it makes a sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from core.codec import Codec
from core.condition import Conditioner
from core.denoiser import Denoiser, DenoiserLike
from core.guidance import Guided
from core.objective import Losses, Objective
from core.random import SamplingRNG, TrainingRNG
from core.sample.step import Step, noise_at
from core.systems.sampling import Guide, Sampling
from core.systems.system import System


class Diffusion(System):
    """A denoiser with its conditioner, codec and objective."""

    def __init__(
        self,
        denoiser: Denoiser,
        conditioner: Conditioner | None = None,
        codec: Codec | None = None,
        objective: Objective | None = None,
    ) -> None:
        """By default the model is unconditional, diffuses the data itself, and minimises the squared error of x0."""
        super().__init__()
        self.denoiser = denoiser
        self.conditioner = conditioner or Conditioner()
        self.codec = codec or Codec()
        self.objective = objective or Objective()

    @property
    def like(self) -> Tensor:
        """A tensor of the device and precision in which the model works."""
        return next(iter(self.denoiser.parameters()), torch.zeros(()))

    def loss(self, batch: Mapping[str, Any], rng: TrainingRNG, quantiles: Tensor | None = None) -> Losses:
        """The loss of a batch ("x" (B, ...) and its conditions), a function of the weights, the batch and the draw.

        ``quantiles`` (B,) in [0, 1) fixes the noise levels, as held-out losses do. A batch of precomputed data (see
        ``Codec``) holds "moments" in place of "x".
        """
        device = self.like.device
        with torch.no_grad():
            if "moments" in batch:
                x = self.codec.sample(batch["moments"].to(device, non_blocking=True), rng)
            else:
                x = self.codec.encode(batch["x"].to(device, non_blocking=True), rng)
        cond = self.conditioner(batch).to(x.device)
        if self.objective.drop > 0:
            keep = self.objective.keep(rng).to(x.device)
            cond = cond.where(keep, self.conditioner.null(len(x)).to(x.device))
        return self.objective(self.denoiser, x, cond, rng, quantiles)

    def guided(self, scale: float, guide: Guide = Guided, negative: Mapping[str, Any] | None = None) -> DenoiserLike:
        """The denoiser under guidance, away from ``negative`` or else from the null; plain guidance by 1 is itself.

        ``negative`` holds conditions as ``sample`` takes them: negative prompts, one or one a sample. Raises
        ValueError if there is nothing to guide away from.
        """
        if scale == 1 and guide is Guided:
            return self.denoiser
        null = (self.conditioner.null(1) if negative is None else self.conditioner(negative)).to(self.like.device)
        if all(getattr(null, field.name) is None for field in dataclasses.fields(null)):
            raise ValueError("this model is unconditional, so guidance has nothing to move away from: leave it at 1")
        return guide(self.denoiser, null, scale)

    @torch.no_grad()
    def sample(
        self,
        noise: SamplingRNG,
        shape: Sequence[int],
        conditions: Mapping[str, Any],
        sampling: Sampling,
        negative: Mapping[str, Any] | None = None,
    ) -> Iterator[Step]:
        """Walk from noise to samples: x of each step (B, *shape) is in the codec's space, ``codec.decode`` reads it.

        conditions (``{"label": ...}``) are batched like ``noise.samples``, negative ones too, or are one for all; shape
        is that of one x. Row i is sample ``noise.samples[i]``, in whatever batch it is made.
        """
        denoiser = self.guided(sampling.guidance, sampling.guide, negative)
        bound = denoiser.bind(self.conditioner(conditions).to(self.like.device))
        times = sampling.grid(bound.schedule, sampling.steps)
        x = noise_at(bound.schedule, times[:1], noise, shape).to(self.like)
        yield from sampling.sampler(bound, x, times, noise)

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """What is diffused (B, ...) -> data (B, ...)."""
        return self.codec.decode(x)
