"""`langevin sample --refiner`: SDXL's second network goes on where a fifth of the noise is left (2307.01952, 2.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from core.codec import Latents
from core.random import SamplingRNG
from core.recipe import Loaded, Sampling
from core.schedule import Discrete
from core.systems.diffusion import Diffusion


@dataclass(frozen=True)
class Refiner:
    """A model that ends what another began."""

    system: Diffusion
    sampling: Sampling  # of which only the sampler is its own

    def walk(
        self,
        base: Diffusion,
        shape: tuple[int, ...],
        way: Sampling,
        noise: SamplingRNG,
        asked: Mapping[str, Any],
        avoid: Mapping[str, Any] | None,
    ) -> Tensor:
        """Latents (B, *shape) that both have made, on the base's grid and under its guidance.

        Raises ValueError where they are no base and refiner, or one of them has no step to make.
        """
        from image.published import Pipeline, hand_off

        if len(shape) != 3 or not all(isinstance(one.denoiser.schedule, Discrete) for one in (base, self.system)):
            raise ValueError("a refiner goes on from a model on the same table of noise levels: leave --refiner out")
        size = (shape[0], shape[1], shape[2])
        first, second = Pipeline("base", base, size, way), Pipeline("refiner", self.system, size, self.sampling)
        return hand_off(first, second, noise, asked, steps=way.steps, guidance=way.guidance, avoid=avoid)


def size_of(loaded: Loaded) -> tuple[int, int]:
    """The height and width of a model's pictures."""
    codec = loaded.system.codec
    factor = codec.autoencoder.plan.factor if isinstance(codec, Latents) else 1
    return loaded.recipe.shape[-2] * factor, loaded.recipe.shape[-1] * factor
