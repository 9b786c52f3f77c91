"""What people ask of a motion model beside samples: to change a clip of a file, or to do one thing after another.

A model makes so many frames at once. A longer clip is changed window after window: each begins with frames that are
kept or were made before, so that what follows fits to them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.random import SamplingRNG
from core.recipe import Change, Follow, Revise, Sampling
from core.systems.diffusion import Diffusion
from motion.compose import Segment, sequence
from motion.editing import Joined, above_the_belt, bridging, edited, features_of
from motion.features import Normal, canonical, encode
from motion.files import read
from motion.kinematics import resample
from motion.skeleton import HUMAN

BEFORE = 20  # frames that a window shows, where there are any, before what is made in it
OVERLAP = 12  # frames in which two prompts are blended
FPS = HUMAN.fps


def parts() -> dict[str, tuple[int, ...]]:
    """Joints by the names of the parts of a body."""
    upper = above_the_belt()
    sides = {
        f"{side}-arm": tuple(
            joint
            for joint, name in enumerate(HUMAN.names)
            if name.startswith(side) and name.endswith(("collar", "shoulder", "elbow", "wrist"))
        )
        for side in ("left", "right")
    }
    return {"upper": upper, "lower": tuple(joint for joint in range(HUMAN.joints) if joint not in upper), **sides}


def revising(normal: Callable[[], Normal], longest: int) -> Revise:
    """Changes of clips by a model that makes ``longest`` frames at once."""

    def revise(system: Diffusion, path: Path, change: Change, noise: SamplingRNG, sampling: Sampling) -> Tensor:
        take = read(path)
        features = encode(canonical(resample(take.joints, take.fps, FPS))).float()
        known, mask = wanted(normal().apply(features), change)
        way = sampling if change.prompt else dataclasses.replace(sampling, guidance=1.0)
        known = known.expand(len(noise.samples), -1, -1)
        return revised(system, change.prompt, known, mask, noise, way, normal(), longest)

    return revise


def wanted(rows: Tensor, change: Change) -> tuple[Tensor, Tensor]:
    """A clip (T, D) as what is known (1, N, D) and a mask (1, N, D), 1 where it is made anew.

    Raises ValueError for frames or a part that there is not, or where nothing changes.
    """
    if change.seconds is not None and not (math.isfinite(change.seconds) and change.seconds > 0):
        raise ValueError(f"a motion lasts a positive number of seconds, not {change.seconds}")
    frames = len(rows) if change.seconds is None else round(change.seconds * FPS)
    known = torch.zeros(1, frames, rows.shape[-1])
    shared = min(frames, len(rows))
    known[0, :shared] = rows[:shared]
    kept = torch.zeros(frames, dtype=torch.bool)
    spans = change.keep if change.keep is not None else () if change.part else ((0, shared),)
    for first, last in spans:
        last = shared if last is None else last
        if not 0 <= first < last <= shared:
            raise ValueError(f"frames {first} to {last} cannot be kept of {shared}, at {FPS:g} frames a second")
        kept[first:last] = True
    named = parts()
    if change.part is not None and change.part not in named:
        raise ValueError(f"'{change.part}' is no part of a body: give {', '.join(named)}")
    limbs = features_of(named[change.part] if change.part else range(HUMAN.joints))
    # Beyond the end of the clip there is nothing of a body to keep.
    beyond = torch.arange(frames) >= shared
    mask = torch.where(beyond[:, None], 1.0, (~kept)[:, None] * limbs)[None]
    if not bool(mask.any()):
        raise ValueError("nothing is made anew: keep fewer frames, name a part, or let it go on for more seconds")
    return known, mask


def revised(
    system: Diffusion,
    caption: str,
    known: Tensor,
    mask: Tensor,
    noise: SamplingRNG,
    sampling: Sampling,
    normal: Normal,
    longest: int,
) -> Tensor:
    """Clips known (B, T, D), normalised, of any length, with what the mask (1, T, D) marks made anew, gap after gap.

    Raises ValueError for a gap in the way of the root, with kept frames after it, that is too long for one window.
    """
    spans = spans_of(mask[0].any(-1))
    for number, (first, last) in enumerate(spans):
        limit = spans[number + 1][0] if number + 1 < len(spans) else known.shape[1]
        whole = bool(mask[:, first:last, :4].any())  # the root, too
        closes = whole and last < limit
        while first < last:
            before = max(BEFORE, (longest - (last - first)) // 2)
            start = max(0, min(first - before, limit - longest))
            stop = min(limit, start + longest)
            if closes and last >= stop:
                most = (longest - BEFORE - 1) / FPS
                raise ValueError(
                    f"a gap of {(last - first) / FPS:g} s between kept frames is too long for this model, which fills "
                    f"{most:g} s: keep frames within it"
                )
            window = known[:, start:stop]
            made = mask[:, start:stop] * (torch.arange(start, stop) >= first)[None, :, None]
            mend = (bridging if whole else Joined)(normal, window, first - start, min(last, stop) - start)
            found = edited(system, caption, window, made, noise, sampling, mend).to(known)
            known = torch.cat([known[:, :start], found, known[:, stop:]], dim=1)
            first = stop
    return known


def spans_of(made: Tensor) -> list[tuple[int, int]]:
    """The runs of frames (T,) that are true, as first and last + 1."""
    edges = torch.nn.functional.pad(made.int(), (1, 1)).diff().nonzero().flatten().tolist()
    return list(zip(edges[::2], edges[1::2]))


def following(longest: int) -> Follow:
    """Prompts, with semicolons between them, one after another, by a model that makes ``longest`` frames at once."""

    def follow(
        system: Diffusion, prompt: str, seconds: Sequence[float], noise: SamplingRNG, sampling: Sampling
    ) -> Tensor:
        return sequence(system, told(prompt, seconds, longest), OVERLAP, noise, sampling)

    return follow


def told(prompt: str, seconds: Sequence[float], longest: int) -> list[Segment]:
    """Segments that last as long as asked for, half of each overlap belonging to either side.

    Raises ValueError for other numbers of seconds than of prompts, or a segment that is too short or too long.
    """
    captions = [caption.strip() for caption in prompt.split(";")]
    each = list(seconds) * len(captions) if len(seconds) == 1 else list(seconds)
    if len(each) != len(captions):
        raise ValueError(f"{len(captions)} prompts need as many numbers of seconds, or one for all, not {len(each)}")
    most = longest if len(captions) == 1 else longest - OVERLAP
    found = []
    for number, (caption, length) in enumerate(zip(captions, each)):
        frames = round(length * FPS) if math.isfinite(length) else 0
        if not OVERLAP <= frames <= most:
            raise ValueError(
                f"'{caption}' cannot last {length:g} s: this model does {OVERLAP / FPS:g} to {most / FPS:g} s at once, "
                "and what lasts longer is said twice"
            )
        neighbours = (number > 0) + (number < len(captions) - 1)
        found.append(Segment(caption, frames + neighbours * OVERLAP // 2))
    return found
