"""What recipes from text to motion have in common: the built-in procedural motions, or a published folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.condition import CombinedConditioner, Conditioner, Valid
from core.condition.words import Words
from core.nn.text import TextEncoder
from core.objective import LogNormal, Weight
from core.recipe import Recipe, Sampling, Training
from core.systems.diffusion import Diffusion, Guide
from motion.changing import following, revising
from motion.data import LONGEST, MotionFiles, published
from motion.features import Normal
from motion.generator import Motions, motions, normal_of
from motion.judging import judged
from motion.objectives import Geometry
from motion.planting import planting
from motion.showing import show
from motion.skeleton import HUMAN
from motion.steadying import steadying
from motion.track import FRAMES

SHAPE = (FRAMES - 1, HUMAN.features)
# Noise over signal: 263 numbers tell of each frame's pose many times over, so what is done still shows where noise is
# ten times the signal, and is decided there. A density for pictures hardly goes so far.
TOLD_APART = LogNormal(1.3, 2.0)


def reading(width: int, vector: int = 0, depth: int = 2, length: int = 40) -> Conditioner:
    """Captions through an encoder that learns with the model, and which frames exist."""
    return CombinedConditioner([Words(TextEncoder(width, depth, 4, length), vector), Valid()])


def held(weight: Weight) -> Weight:
    """A weight that rises no further where noise is less than a quarter of the signal."""
    return lambda log_snr: weight(log_snr.clamp(max=2 * math.log(4)))


def smooth(normal: Callable[[], Normal], weight: float) -> Geometry | None:
    """Losses of what is seen first in a film: limbs that shake and feet that slide."""
    return Geometry(normal, positions=0, velocities=weight, contacts=weight, local=True) if weight else None


def mending() -> Guide:
    """Guidance whose last estimates have limbs that do not shake and feet that do not slide."""
    return planting(normal_of, within=steadying())


def procedural(system: Callable[[], Diffusion], sampling: Sampling, training: Training, count: int) -> Recipe:
    """A recipe on ``count`` procedural motions. It is asked for captions that training never shows."""

    @cache
    def parts() -> tuple[Motions, Motions]:
        return motions(count)

    def ask(seed: int, samples: Sequence[int]) -> Mapping[str, Any]:
        found = parts()[1].get([number % len(parts()[1]) for number in samples])
        return {name: found[name] for name in ("caption", "valid", "clip")}

    return Recipe(
        system,
        SHAPE,
        sampling,
        training,
        parts,
        show=_showing(normal_of),
        suffix=".gif",
        ask=ask,
        understand=_typing(SHAPE[0]),
        evaluate=lambda: judged(*parts(), normal_of()),
        revise=revising(normal_of, SHAPE[0]),
        follow=following(SHAPE[0]),
    )


def folder(system: Callable[[], Diffusion], sampling: Sampling, training: Training, data: str) -> Recipe:
    """A recipe on a folder of HumanML3D, or of recordings made like it by ``motion.data.prepare``."""

    @cache
    def parts() -> tuple[MotionFiles, MotionFiles]:
        return published(Path(data), "train"), published(Path(data), "test")

    def ask(seed: int, samples: Sequence[int]) -> Mapping[str, Any]:
        found = parts()[1].get([number % len(parts()[1]) for number in samples])
        return {name: found[name] for name in ("caption", "valid")}

    def normal() -> Normal:
        return Normal.read(Path(data))

    return Recipe(
        system,
        (LONGEST, HUMAN.features),
        sampling,
        training,
        parts,
        show=_showing(normal),
        suffix=".gif",
        ask=ask,
        understand=_typing(LONGEST),
        evaluate=lambda: judged(*parts(), normal()),
        revise=revising(normal, LONGEST),
        follow=following(LONGEST),
    )


def _showing(normal: Callable[[], Normal]) -> Callable[[Path, Tensor, dict[str, object]], None]:
    def write(path: Path, x: Tensor, settings: dict[str, object]) -> None:
        sizes = settings.get("sizes")
        frames = [int(size) for size in sizes] if isinstance(sizes, list) and len(sizes) == len(x) else None
        show(path, normal().undo(x.float().cpu()), settings, frames)

    return write


def _typing(frames: int) -> Callable[[str, int], Mapping[str, Any]]:
    def understand(text: str, count: int) -> Mapping[str, Any]:
        """A caption as a person types it, or several in turn with a semicolon between them."""
        captions = [caption.strip() for caption in text.split(";")]
        return {
            "caption": [captions[i % len(captions)] for i in range(count)],
            "valid": torch.ones(count, frames, dtype=torch.bool),
        }

    return understand
