"""What the presets ``own`` share: models of recordings of your own, whose network is fitted to them (``core.fit``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from core.cond import Cond
from core.denoiser import DenoiserLike
from core.prompts import Classes, Conditions, repeated, split
from core.recipe import Recipe, Sampling, Training, tiny_training
from core.sizes import Law, Sizes
from core.systems.diffusion import Diffusion
from core.systems.sampling import Guide
from motion.foot_skate import foot_skate_cleanup
from motion.modality import MotionModality
from motion.own_evaluation import own_evaluator
from motion.skeleton import HUMAN
from motion.smoothing import temporal_smoothing
from motion.windows import Parts, open_parts, spoken


@dataclass(frozen=True)
class OwnPrompts:
    """Captions, or classes by name or number where nothing else is known of the recordings.

    By default samples are asked for what held-out windows show, as long as those are; what is typed lasts as long as
    training windows of that caption usually do.
    """

    parts: Callable[[], Parts]

    def default(self, seed: int, samples: Sequence[int]) -> Conditions:
        held_out = self._shown()
        found = held_out.get([number % len(held_out) for number in samples])
        return {name: value for name, value in found.items() if name != "x"}

    def parse(self, text: str, count: int) -> Conditions:
        """Semicolons separate several, commas too between classes. Raises ValueError for what is no class."""
        parts = self.parts()
        known = {caption.casefold(): caption for caption in parts.captions}
        asked = split(text)
        if not parts.captioned and parts.classes and not all(caption.casefold() in known for caption in asked):
            labels = Classes(len(parts.classes), parts.classes).parse(text, count)["label"].tolist()
            captions = [spoken(parts.classes[label]) for label in labels]
        else:
            captions = repeated([known.get(caption.casefold(), caption) for caption in asked], count)
            labels = [parts.captions.get(caption, -1) for caption in captions]
        rows = torch.tensor([parts.usual_rows(caption) for caption in captions])
        valid = torch.arange(parts.train.length) < rows[:, None]
        return {"caption": captions, "valid": valid, "label": torch.tensor(labels)}

    def _shown(self) -> Any:
        parts = self.parts()
        return parts.held_out if len(parts.held_out) else parts.train


def own_guidance(parts: Callable[[], Parts]) -> Guide:
    """Guidance whose last estimates have limbs that shake and feet that slide no more than those of the data."""

    def guide(denoiser: DenoiserLike, null: Cond, scale: float) -> DenoiserLike:
        found = parts()
        smooth = temporal_smoothing(deviation=found.smoothing)
        return foot_skate_cleanup(lambda: found.normal, within=smooth, feet=found.feet)(denoiser, null, scale)

    return guide


def own_training(batch: int, steps: int, lr: float, warmup: int) -> Training:
    """A short training in as many processes as the fit says."""
    return replace(tiny_training(batch, steps, lr, warmup), processes=1)


def opened(data: str, frames: int) -> Callable[[], Parts]:
    """The parts of the data, opened when they are first asked for."""

    @cache
    def parts() -> Parts:
        return open_parts(Path(data), frames)

    return parts


def own_recipe(
    system: Callable[[], Diffusion],
    parts: Callable[[], Parts],
    frames: int,
    sampling: Sampling,
    training: Training,
    sizes: Sizes | None = None,
) -> Recipe:
    """A recipe on recordings, published or one's own, by caption or class as they have them."""
    return Recipe(
        system,
        (frames, HUMAN.features),
        sampling,
        training,
        lambda: (parts().train, parts().held_out if len(parts().held_out) else None),
        MotionModality(lambda: parts().normal, frames),
        OwnPrompts(parts),
        evaluate=own_evaluator(parts),
        sizes=sizes,
    )


def dropout(epochs: float) -> float:
    """Little where windows are seen a few times, and more the more they are repeated."""
    return 0.0 if epochs < 20 else 0.1 if epochs < 300 else 0.2


def rate_from(width: int, rate: float) -> Callable[[Mapping[str, Any], int], float]:
    """The learning rate of a width, from that of another: as the inverse root of width, and of batches below 48."""

    def rate_of(arguments: Mapping[str, Any], batch: int) -> float:
        return float(f"{rate * (width / arguments['width']) ** 0.5 * min(1.0, batch / 48) ** 0.5:.2g}")

    return rate_of


SIZES = Sizes(
    [{"width": width, "depth": depth} for width, depth in ((64, 3), (128, 4), (192, 6), (256, 6), (384, 8), (512, 10))],
    Law(0.3, 0.35, 3e3),
    rate_from(192, 1.25e-3),
    dropout,
)
