"""What motions are asked for: prompts and, where several follow one another, their seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.flags import option
from core.model import Model, OnStep, Request

if TYPE_CHECKING:
    from torch import Tensor

    from core.random import SamplingRNG


@dataclass(frozen=True)
class MotionRequest(Request):
    """A request for motions."""

    seconds: tuple[float, ...] = option(
        (), "prompts follow one another, separated by `;`: seconds of each, or one number for all", "SECONDS"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seconds and self.prompt is None:
            raise ValueError("--seconds says how long each prompt lasts: say with --prompt what follows what")
        if self.seconds and self.negative_prompt is not None:
            raise ValueError("prompts that follow one another are sampled without --negative-prompt: leave it out")

    def check_measurable(self) -> None:
        if self.seconds:
            raise ValueError("samples are measured as long as the model makes them: leave --seconds out")

    def draw(self, model: Model, noise: SamplingRNG, on_step: OnStep | None = None) -> tuple[Tensor, Mapping[str, Any]]:
        """Features (B, T, D), of one prompt each, or of prompts that follow one another."""
        if not self.seconds:
            return super().draw(model, noise, on_step)
        from motion.changing import sample_sequence

        x = sample_sequence(model, self.prompt or "", self.seconds, noise, self.sampling(model.sampling))
        return x, {"caption": [self.prompt or ""] * len(noise.samples)}


REQUEST = MotionRequest
