"""Edits of tides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.flags import option
from core.model import Model, Operation


@dataclass(frozen=True)
class Raise(Operation):
    """Raise the sea and let the model make the day plausible again."""

    by: float = option(0.5, "how much, in metres")

    def run(self, model: Model, source: Any) -> Sequence[Any]:
        from core.edit import image_to_image
        from core.random import SamplingRNG
        from core.sample.step import run

        system, sampling = model.diffusion, self.sampling(model.sampling)
        raised = (model.modality.encode([source]) + self.by).repeat(self.count, 1, 1)
        walk = image_to_image(
            system.denoiser.bind(system.conditioner({})),
            raised,
            SamplingRNG(self.seed, self.samples()),
            sampler=sampling.sampler,
            grid=sampling.grid,
            steps=sampling.steps,
            strength=0.3,
        )
        return model.modality.decode(model.decoded(run(walk)), {})


OPERATIONS: Mapping[str, type[Operation]] = {"raise": Raise}
