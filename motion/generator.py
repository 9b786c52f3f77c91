"""Procedural motions: captioned clips of many builds and styles, generated on the fly and reproducible.

Clip i of a seed is a function of (seed, i): its script, its person, its style, its joints. A caption whose hash ends in
0 is held out: it never occurs in training. Twenty frames a second, at most six seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motion import acts
from motion.acts import Style
from motion.body import Proportions, pose
from motion.curves import FPS, FRAMES, SIDES, Track
from motion.features import Normal, canonical, encode
from motion.script import DIRECTIONS, Act, Draw, Kind, Script, script
from motion.skeleton import HUMAN

SHORTEST = 40  # rows of features; lengths are multiples of 4, as in the published data sets
MEASURED = 512  # clips from which the normalisation is measured


@dataclass(frozen=True)
class Clip:
    """The truth about a clip: what is done, by whom, how, and over how many rows of features."""

    script: Script
    person: Proportions
    style: Style
    frames: int

    @property
    def caption(self) -> str:
        """The sentence that describes the clip."""
        return self.script.caption


def clip(seed: int, index: int, held_out: bool = False) -> tuple[Clip, Track]:
    """Clip ``index`` of the training or the held-out part: the truth about it and its curves."""
    found, draw = script(seed, index, held_out)
    style, person = _style(draw), _person(draw)
    for hurry in (1.0, 0.85, 0.7, 0.55, 0.4):
        track = Track(style.width)
        _perform(track, found.acts, style, hurry)
        if track.now <= (FRAMES - 1) / FPS:
            break
    _live(track, style, draw)
    rows = int(np.ceil((track.now * FPS + draw.uniform(0, 8)) / 4)) * 4
    return Clip(found, person, style, min(max(rows, SHORTEST), FRAMES - 1)), track


def _style(draw: Draw) -> Style:
    return Style(
        swing=draw.uniform(0.9, 1.8),
        stoop=draw.uniform(-0.03, 0.16),
        vigour=draw.uniform(0.88, 1.15),
        bounce=draw.uniform(0.7, 1.3),
        width=draw.uniform(0.085, 0.12),
        first=SIDES[int(draw.integers(2))],
    )


def _person(draw: Draw) -> Proportions:
    size = draw.uniform(0.93, 1.07)
    return Proportions(size, *draw.uniform([0.95, 0.93, 0.95, 0.9, 0.92], [1.05, 1.07, 1.05, 1.1, 1.08]).tolist())


def _perform(track: Track, todo: Sequence[Act], style: Style, hurry: float) -> None:
    """Write the acts of a script into a track, one after the other or together."""
    acts.stand(track, 0.25)
    for number, act in enumerate(todo):
        if number and not act.meanwhile:
            acts.stand(track, 0.1 * hurry)
        PERFORM[act.kind](track, replace(act, seconds=act.seconds * hurry), style)


def _walk(track: Track, act: Act, style: Style) -> None:
    acts.walk(track, style, act.seconds, act.speed, DIRECTIONS[act.direction], act.turn)


def _run(track: Track, act: Act, style: Style) -> None:
    acts.run(track, style, act.seconds, act.speed, act.turn)


def _turn(track: Track, act: Act, style: Style) -> None:
    acts.turn(track, style, act.turn)


def _jump(track: Track, act: Act, style: Style) -> None:
    acts.jump(track, style, act.height, act.distance)


def _sit(track: Track, act: Act, style: Style) -> None:
    acts.sit(track, style, act.height, act.seconds, act.rise)


def _kick(track: Track, act: Act, style: Style) -> None:
    acts.kick(track, style, act.side, act.height)


def _bow(track: Track, act: Act, style: Style) -> None:
    acts.bow(track, style, act.depth)


def _wave(track: Track, act: Act, style: Style) -> None:
    if act.meanwhile:
        acts.wave(track, style, act.side, 0.15, track.now)
    else:
        acts.wave(track, style, act.side, track.now, track.now + act.seconds)
        track.now += act.seconds


PERFORM: dict[Kind, Callable[[Track, Act, Style], None]] = {
    Kind.WALK: _walk,
    Kind.RUN: _run,
    Kind.JUMP: _jump,
    Kind.WAVE: _wave,
    Kind.SIT: _sit,
    Kind.KICK: _kick,
    Kind.BOW: _bow,
    Kind.TURN: _turn,
}


def _live(track: Track, style: Style, draw: Draw) -> None:
    """The stoop of a person, and slow small movements that nobody intends."""
    track.add("bend", np.full(FRAMES, style.stoop))
    track.add("nod", np.full(FRAMES, -0.5 * style.stoop))
    names = ("bend", "side", "turn", "nod", *(f"{side}_{part}" for side in SIDES for part in ("arm_out", "fore_out")))
    rates, phases = draw.uniform(0.15, 0.6, (len(names), 2)), draw.uniform(0, 2 * np.pi, (len(names), 2))
    sizes = draw.uniform(0.005, 0.03, (len(names), 2))
    waves = sizes[..., None] * np.sin(2 * np.pi * rates[..., None] * track.time + phases[..., None])
    for name, wave in zip(names, waves.sum(1)):
        track.add(name, wave)


@dataclass(frozen=True)
class Motions:
    """``count`` clips as a data set.

    A batch has "x" (B, 120, 263), normalised and 0 after a clip's end; "valid" (B, 120) bool; "caption", a list of str;
    and "clip", a list of Clip.
    """

    count: int
    normal: Normal
    held_out: bool = False
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, D) of every clip."""
        return (FRAMES - 1, HUMAN.features)

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        """Features, which of them count, captions and truth at some indices."""
        joints, valid, clips = poses(self.seed, indices, self.held_out)
        x = self.normal.apply(encode(joints).float()) * valid[..., None]
        return {"x": x, "valid": valid, "caption": [found.caption for found in clips], "clip": clips}


def poses(seed: int, indices: Sequence[int], held_out: bool = False) -> tuple[Tensor, Tensor, list[Clip]]:
    """Joints (B, 121, 22, 3) float64 in the frame of ``canonical``, which rows count (B, 120), and the truth.

    After its end a clip stands still in its last pose.
    """
    made = [clip(seed, index, held_out) for index in indices]
    clips = [found for found, _ in made]
    joints = torch.from_numpy(pose([track for _, track in made], [found.person for found in clips]))
    rows = torch.tensor([found.frames for found in clips])
    last = torch.minimum(torch.arange(FRAMES), rows[:, None])  # (B, T)
    joints = joints.gather(1, last[..., None, None].expand_as(joints))
    return canonical(joints), torch.arange(FRAMES - 1) < rows[:, None], clips


@lru_cache(maxsize=4)
def normal_of(seed: int = 0) -> Normal:
    """The normalisation of the training part, measured on its first clips."""
    joints, valid, _ = poses(seed, range(MEASURED))
    return Normal.of(encode(joints)[valid].float(), HUMAN.joints)


def motions(count: int = 20_000, held_out: int = 2_000, seed: int = 0) -> tuple[Motions, Motions]:
    """The training and the held-out part; they share no caption."""
    normal = normal_of(seed)
    return Motions(count, normal, seed=seed), Motions(held_out, normal, held_out=True, seed=seed)
