"""From SDXL's base to its refiner: one samples from noise down to a level, the other from there to the picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.cond import Cond
from core.model import Model, Request
from core.prompts import Conditions
from core.random import SamplingRNG
from core.registry import open_model
from core.sample.step import noise_at, run
from core.schedule import Discrete
from image.published.pipeline import Pipeline
from image.published.scheduler import without_unit_noise
from image.published.stable_diffusion import SCORES


def open_refiner(path: Path, base: Model, request: Request) -> Model:
    """The refiner of a checkpoint or a folder, which is opened for a request. Raises ValueError for another size."""
    found = open_model(path, request=request)
    if found.shape != base.shape:
        raise ValueError(f"{path} takes latents of {found.shape}, where these are {base.shape}: give their refiner")
    return found


@torch.no_grad()
def refine(base: Model, refiner: Model, request: Request, noise: SamplingRNG) -> tuple[Tensor, Conditions]:
    """Latents (B, C, H, W) of a request by both, on the base's grid and under its guidance, and their conditions.

    Raises ValueError where they are no base and refiner, or one of them has no step to make.
    """
    tables = [isinstance(model.diffusion.denoiser.schedule, Discrete) for model in (base, refiner)]
    if len(base.shape) != 3 or not all(tables):
        raise ValueError("a refiner goes on from a model on the same table of noise levels: leave --refiner out")
    first, second = (
        Pipeline(name, model.diffusion, (model.shape[0], model.shape[1], model.shape[2]), sampling)
        for name, model, sampling in (
            ("base", base, request.sampling(base.sampling)),
            ("refiner", refiner, request.sampling(refiner.sampling)),
        )
    )
    asked = request.conditions(base, noise.samples)
    negative = request.negative_prompt
    avoid = None if negative is None else base.prompts.parse(negative, len(noise.samples))
    sampling = first.sampling
    return hand_off(first, second, noise, asked, steps=sampling.steps, guidance=sampling.guidance, avoid=avoid), asked


@torch.no_grad()
def hand_off(
    base: Pipeline,
    refiner: Pipeline,
    noise: SamplingRNG,
    asked: Mapping[str, Any],
    *,
    share: float = 0.8,
    steps: int = 50,
    guidance: float = 5.0,
    avoid: Mapping[str, Any] | None = None,
) -> Tensor:
    """Latents (B, C, H, W) of which the base samples the noisiest ``share`` of the table and the refiner the rest.

    Both are on the base's grid of ``steps``: the base leaves x where the first time beyond its share begins, and the
    refiner goes on from there. With the refiner equal to the base and a one-step sampler, this is the base alone.
    Raises ValueError where a side has nothing to do, or their latents differ.
    """
    if base.shape != refiner.shape:
        raise ValueError(
            f"the base makes latents of {base.shape} and the refiner takes {refiner.shape}: open them alike"
        )
    schedule = base.system.denoiser.schedule
    times = base.sampling.grid(schedule, steps)
    cut = round((1 - share) * (schedule.noisiest + 1))
    first = int((times[:-1] >= cut).sum())
    if not 0 < first < steps:
        raise ValueError(f"a share of {share} leaves the base or the refiner none of {steps} steps: ask for more steps")
    x = noise_at(schedule, times[:1], noise, base.shape).to(base.system.like)
    near = base.system.guided(guidance, negative=avoid).bind(conditions(base, asked))
    x = run(base.sampling.sampler(near, x, times[: first + 1], noise))
    # The refiner is also conditioned on an aesthetic score, which the base ignores.
    worse = None if avoid is None else {**avoid, "score": SCORES[1]}
    fine = refiner.system.guided(guidance, negative=worse).bind(conditions(refiner, asked))
    return run(without_unit_noise(refiner.sampling.sampler)(fine, x.to(refiner.system.like), times[first:], noise))


def conditions(pipeline: Pipeline, asked: Mapping[str, Any]) -> Cond:
    """The conditions of a request for a pipeline."""
    return pipeline.system.conditioner(asked).to(pipeline.system.like.device)
