"""From SDXL's base to its refiner: one walks from noise down to a level, the other from there to the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.cond import Cond
from core.random import SamplingRNG
from core.sample.step import run
from image.published.pipeline import Pipeline
from image.published.scheduler import plain
from image.published.stable_diffusion import SCORES


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
    """Latents (B, C, H, W) of which the base walks the noisiest ``share`` of the table and the refiner the rest.

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
    x = (noise.start(base.shape) * schedule(times[:1])[1]).to(base.system.like)
    near = base.system.guided(guidance, avoid=avoid).bind(told(base, asked))
    x = run(base.sampling.sampler(near, x, times[: first + 1], noise))
    # A refiner also hears how beautiful the picture is to be; to a base the number means nothing.
    worse = None if avoid is None else {**avoid, "score": SCORES[1]}
    fine = refiner.system.guided(guidance, avoid=worse).bind(told(refiner, asked))
    return run(plain(refiner.sampling.sampler)(fine, x.to(refiner.system.like), times[first:], noise))


def told(pipeline: Pipeline, asked: Mapping[str, Any]) -> Cond:
    """What a pipeline makes of what is asked for."""
    return pipeline.system.conditioner(asked).to(pipeline.system.like.device)
