"""Edits of clips of files, and sequences of several prompts.

A model makes so many frames at once. A longer clip is changed window after window: each begins with frames that are
kept or were made before, so that what follows fits to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from core.model import Model
from core.prompts import split
from core.random import SamplingRNG
from core.systems.diffusion import Diffusion
from core.systems.sampling import Sampling
from motion.clips import Clips
from motion.compose import Segment, sequence
from motion.editing import Inertialization, gap_constraint, inpaint_clips, joint_features, upper_body
from motion.features import Normal
from motion.skeleton import HUMAN

BEFORE = 20  # frames that a window shows, where there are any, before what is made in it
OVERLAP = 12  # frames in which two prompts are blended
FPS = HUMAN.fps

Spans = tuple[tuple[int, int | None], ...]  # of frames; without an end, to the end of the clip


def body_parts() -> dict[str, tuple[int, ...]]:
    """Joints by the names of the parts of a body."""
    upper = upper_body()
    sides = {
        f"{side}-arm": tuple(
            joint
            for joint, name in enumerate(HUMAN.names)
            if name.startswith(side) and name.endswith(("collar", "shoulder", "elbow", "wrist"))
        )
        for side in ("left", "right")
    }
    return {"upper": upper, "lower": tuple(joint for joint in range(HUMAN.joints) if joint not in upper), **sides}


def clips_of(model: Model) -> Clips:
    """A model's modality. Raises ValueError for a model of something else."""
    if not isinstance(model.modality, Clips):
        raise ValueError(f"{model.name} makes no motions: give a checkpoint of one that does")
    return model.modality


def edit_mask(
    rows: Tensor, kept: Spans | None = None, part: str | None = None, seconds: float | None = None
) -> tuple[Tensor, Tensor]:
    """A clip (T, D) as what is known (1, N, D) and a mask (1, N, D), 1 where it is generated.

    kept: spans of frames that stay whole; part: what of the body is generated in the others, all of it without one;
    seconds: the length of the result.

    Raises ValueError for frames or a part that there is not, or where nothing changes.
    """
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"a motion lasts a positive number of seconds, not {seconds}")
    frames = len(rows) if seconds is None else round(seconds * FPS)
    known = torch.zeros(1, frames, rows.shape[-1])
    shared = min(frames, len(rows))
    known[0, :shared] = rows[:shared]
    stays = torch.zeros(frames, dtype=torch.bool)
    spans = kept if kept is not None else () if part else ((0, shared),)
    for first, last in spans:
        last = shared if last is None else last
        if not 0 <= first < last <= shared:
            raise ValueError(f"frames {first} to {last} cannot be kept of {shared}, at {FPS:g} frames a second")
        stays[first:last] = True
    named = body_parts()
    if part is not None and part not in named:
        raise ValueError(f"'{part}' is no part of a body: give {', '.join(named)}")
    limbs = joint_features(named[part] if part else range(HUMAN.joints))
    # Beyond the end of the clip there is nothing of a body to keep.
    beyond = torch.arange(frames) >= shared
    mask = torch.where(beyond[:, None], 1.0, (~stays)[:, None] * limbs)[None]
    if not bool(mask.any()):
        raise ValueError("nothing is generated: keep fewer frames, name a part, or extend it by more seconds")
    return known, mask


def regenerate(
    system: Diffusion,
    caption: str,
    known: Tensor,
    mask: Tensor,
    noise: SamplingRNG,
    sampling: Sampling,
    normal: Normal,
    longest: int,
) -> Tensor:
    """Clips known (B, T, D), normalised, of any length, with what the mask (1, T, D) marks regenerated, gap after gap.

    Raises ValueError for a gap in the path of the root, with kept frames after it, that is too long for one window.
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
            constraint = (gap_constraint if whole else Inertialization)(
                normal, window, first - start, min(last, stop) - start
            )
            found = inpaint_clips(system, caption, window, made, noise, sampling, constraint).to(known)
            known = torch.cat([known[:, :start], found, known[:, stop:]], dim=1)
            first = stop
    return known


def spans_of(made: Tensor) -> list[tuple[int, int]]:
    """The runs of frames (T,) that are true, as first and last + 1."""
    edges = torch.nn.functional.pad(made.int(), (1, 1)).diff().nonzero().flatten().tolist()
    return list(zip(edges[::2], edges[1::2]))


def sample_sequence(
    model: Model, prompt: str, seconds: Sequence[float], noise: SamplingRNG, sampling: Sampling
) -> Tensor:
    """Features (B, T, D) of prompts, with semicolons between them, one after another."""
    return sequence(model.diffusion, timed(prompt, seconds, clips_of(model).frames), OVERLAP, noise, sampling)


def timed(prompt: str, seconds: Sequence[float], longest: int) -> list[Segment]:
    """Segments that last as long as asked for, half of each overlap belonging to either side.

    Raises ValueError for other numbers of seconds than of prompts, or a segment that is too short or too long.
    """
    captions = split(prompt)
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
                "and repeat a prompt for what lasts longer"
            )
        neighbours = (number > 0) + (number < len(captions) - 1)
        found.append(Segment(caption, frames + neighbours * OVERLAP // 2))
    return found
