"""Temporal smoothing of estimates of x0 at low noise, against jittering limbs.

What a network errs is as large in one frame as in the next, and not alike; what bodies do is slow. So errors are mostly
the fast part of an estimate. With G a straight line fitted to the frames about each, under Gaussian weights, the filter

    x0 <- (2 G - G^2) x0 = (1 - (1 - G)^2) x0                                   (Tukey's twicing)

takes from a motion of frequency w (radians a frame), away from the ends, only (1 - exp(-w^2 s^2 / 2))^2: with s = 1
frame 1 % at 1.5 Hz, 50 % at 5 Hz and 99 % at 10 Hz. Straight lines stay as they are, and so do contacts. It acts on
estimates as guidance does, under any sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, DenoiserLike
from core.guidance import GuidanceInterval, Guided
from core.schedule import Schedule
from core.systems.diffusion import Guide
from motion.features import decode

CONTACTS = 4  # the last features
DEVIATIONS = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4)  # frames
MOVED = 0.004  # metres by which smoothing may move the joints of true motions, in the mean


@dataclass(frozen=True)
class TemporalSmoothing:
    """A denoiser whose x0 (B, T, D) is smooth over the frames that exist; ``deviation`` counts frames."""

    denoiser: DenoiserLike
    deviation: float = 1.0

    def __post_init__(self) -> None:
        if not self.deviation > 0:
            raise ValueError(f"motions are smoothed over a positive number of frames, not {self.deviation}")

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        filters: dict[int, Tensor] = {}  # of so many frames

        def smoothed(clean: Tensor) -> Tensor:
            frames = clean.shape[1]
            if frames not in filters:
                exists = torch.ones_like(clean[:1, :, 0]) if cond.valid is None else cond.valid.to(clean)
                once = local_linear_fit(exists, self.deviation)
                filters[frames] = 2 * once - once @ once
            return torch.cat([filters[frames] @ clean[..., :-CONTACTS], clean[..., -CONTACTS:]], dim=-1)

        return self.denoiser.bind(cond).map_x0(smoothed)


def local_linear_fit(exists: Tensor, deviation: float) -> Tensor:
    """The matrices (B, T, T) that fit a straight line about each frame to those that exist (B, T) of 0 and 1.

    Frames that do not exist stay as they are, and so does one that is alone.
    """
    places = torch.arange(exists.shape[1], dtype=exists.dtype, device=exists.device)
    away = places - places[:, None]  # (T, T): of frame j from frame i
    weights = torch.exp(-0.5 * (away / deviation) ** 2) * exists[:, None]  # (B, T, T)
    zeroth, first, second = ((weights * away**power).sum(-1, keepdim=True) for power in range(3))
    size = zeroth * second - first**2
    fitted = weights * (second - first * away) / size.clamp_min(1e-12)
    fitted_frames = (exists[..., None] > 0) & (size > 1e-6)
    return torch.where(fitted_frames, fitted, torch.eye(len(places)).to(fitted))


def usual_deviation(clips: Sequence[Tensor], most: int = 64) -> float:
    """The widest filter, up to 1 frame, that leaves the motions of features (T, D) in clips as they are, but for 4 mm.

    Dancers and fighters are faster than people who walk, and their quickest movements are no errors.
    """
    some = [clip[:160] for clip in clips[:: max(len(clips) // most, 1)] if len(clip) > 2]
    for deviation in DEVIATIONS:
        moved = []
        for clip in some:
            once = local_linear_fit(torch.ones(1, len(clip)), deviation)
            places = decode(clip)[None].flatten(2)
            moved.append((((2 * once - once @ once) @ places) - places).unflatten(-1, (-1, 3)).norm(dim=-1).mean())
        if float(torch.stack(moved).mean()) <= MOVED:
            return deviation
    return DEVIATIONS[-1]


def temporal_smoothing(below: float = 0.5, deviation: float = 1.0, within: Guide = Guided) -> Guide:
    """A guidance with temporal smoothing where noise is less than ``below`` times the signal."""

    def guide(denoiser: DenoiserLike, null: Cond, scale: float) -> DenoiserLike:
        guided = within(denoiser, null, scale)
        return GuidanceInterval(TemporalSmoothing(guided, deviation), guided, high=below)

    return guide
