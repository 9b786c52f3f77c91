"""Actions measured from joints, to check captions of real and of generated clips alike.

Every measure is a length, an angle or a share of time with a plain threshold; nothing is learnt. ``agrees`` compares
them with what an act claims.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from motion.features import heading
from motion.physics import NEAR
from motion.script import DIRECTIONS, SIDES, Act, Kind
from motion.skeleton import HUMAN

JOINT = {name: place for place, name in enumerate(HUMAN.names)}


@dataclass(frozen=True)
class Observation:
    """What one clip shows. Sides are (left, right)."""

    forward: float  # metres gone in the direction that the body faces, in all
    leftward: float  # metres gone to its left
    path: float  # metres gone in any direction
    turned: float  # radians to the left in all
    speed: float  # metres a second, the mean of the fastest second
    risen: float  # metres that the lower foot leaves the ground at most
    sunk: float  # the lowest height of the pelvis as a share of that at the start
    end: float  # that height at the end
    raised: tuple[float, float]  # seconds that a hand is above its shoulder
    waved: tuple[float, float]  # metres that a raised hand moves to and fro
    kicked: tuple[float, float]  # metres that a foot rises while the other one stands
    bowed: float  # radians that the trunk leans forward at most, while the legs are straight
    flight: float  # share of the fastest second without a foot on the ground


def observe(joints: Tensor, fps: float = HUMAN.fps) -> Observation:
    """Measure a clip (T, 22, 3) whose ground is at 0. Nothing about it is known beforehand."""
    second = max(int(fps), 1)
    facing = heading(joints, smooth=2.0)
    step = joints[:, 0].diff(dim=0)
    sin, cos = facing[:-1].sin(), facing[:-1].cos()
    ahead, left = step[:, 0] * sin + step[:, 2] * cos, step[:, 0] * cos - step[:, 2] * sin
    pace = step[:, [0, 2]].norm(dim=-1) * fps
    spans = pace.unfold(0, min(second, len(pace)), 1).mean(-1)
    fast = int(spans.argmax())
    toes = joints[:, [JOINT["left_foot"], JOINT["right_foot"]], 1]
    airborne = (toes.amin(-1) > NEAR)[fast : fast + second]
    pelvis = joints[:, 0, 1]
    trunk = joints[:, JOINT["neck"]] - joints[:, 0]
    lean = torch.atan2(trunk[:, 0] * facing.sin() + trunk[:, 2] * facing.cos(), trunk[:, 1])
    upright = pelvis > 0.85 * pelvis[0]
    hands = [_hand(joints, facing, side, fps) for side in ("left", "right")]
    return Observation(
        forward=float(ahead.sum()),
        leftward=float(left.sum()),
        path=float(pace.sum()) / fps,
        turned=float(facing[-1] - facing[0]),
        speed=float(spans.max()),
        risen=float(toes.amin(-1).max()),
        sunk=float(pelvis.min() / pelvis[0]),
        end=float(pelvis[-1] / pelvis[0]),
        raised=(hands[0][0], hands[1][0]),
        waved=(hands[0][1], hands[1][1]),
        kicked=(_kick(toes[:, 0], toes[:, 1]), _kick(toes[:, 1], toes[:, 0])),
        bowed=float(torch.where(upright, lean, 0).max()),
        flight=float(airborne.double().mean()),
    )


def _hand(joints: Tensor, facing: Tensor, side: str, fps: float) -> tuple[float, float]:
    """Seconds for which a hand is above its shoulder, and how far it moves to and fro meanwhile."""
    wrist, elbow, shoulder = (joints[:, JOINT[f"{side}_{part}"]] for part in ("wrist", "elbow", "shoulder"))
    up = wrist[:, 1] > shoulder[:, 1] + 0.02
    away = wrist - elbow
    across = away[:, 0] * facing.cos() - away[:, 2] * facing.sin()
    both = up[1:] & up[:-1]
    return float(up.sum()) / fps, float(torch.where(both, across.diff().abs(), 0).sum())


def _kick(foot: Tensor, other: Tensor) -> float:
    return float(torch.where(other < NEAR, foot, 0).max())


def side_of_wave(seen: Observation) -> str:
    """The hand that waves, "left" or "right", or "" if none does: raised for 0.7 s, to and fro by 25 cm."""
    waves = [time >= 0.7 and length >= 0.25 for time, length in zip(seen.raised, seen.waved)]
    if not any(waves):
        return ""
    return "left" if seen.waved[0] > seen.waved[1] else "right"


def direction_of_walk(seen: Observation) -> str:
    """The direction of a walk relative to the heading, a key of ``DIRECTIONS``, or "" if it stays within 40 cm."""
    if math.hypot(seen.forward, seen.leftward) < 0.4:
        return ""
    angle = math.atan2(seen.leftward, seen.forward)
    return min(DIRECTIONS, key=lambda name: abs(math.remainder(angle - DIRECTIONS[name], 2 * math.pi)))


def agrees(act: Act, seen: Observation) -> bool:
    """Whether a clip shows an act, as far as the caption describes it."""
    return CHECKS[act.kind](act, seen)


def _walks(act: Act, seen: Observation) -> bool:
    curved = abs(seen.turned) > 0.7 and seen.turned * act.turn > 0 if act.turn else True
    return curved and direction_of_walk(seen) == act.direction


def _runs(act: Act, seen: Observation) -> bool:
    return _walks(act, seen) and seen.speed > 1.7


def _jumps(act: Act, seen: Observation) -> bool:
    high = (0.26 if act.height > 0.3 else 0.05) < seen.risen < (0.7 if act.height > 0.3 else 0.4)
    return high and (act.distance == 0 or seen.forward > 0.35)


def _waves(act: Act, seen: Observation) -> bool:
    return side_of_wave(seen) == act.side


def _sits(act: Act, seen: Observation) -> bool:
    return seen.sunk < 0.72 and ((seen.end > 0.9) if act.rise else (seen.end < 0.72))


def _kicks(act: Act, seen: Observation) -> bool:
    side = SIDES.index(act.side)
    return seen.kicked[side] > max(0.35, seen.kicked[1 - side])


def _bows(act: Act, seen: Observation) -> bool:
    return seen.bowed > 0.75 if act.depth > 1 else 0.3 < seen.bowed < 0.75


def _turns(act: Act, seen: Observation) -> bool:
    low, high = (2.3, 4.2) if abs(act.turn) > 2.5 else (0.9, 2.3)
    return low < seen.turned * math.copysign(1, act.turn) < high


CHECKS: dict[Kind, Callable[[Act, Observation], bool]] = {
    Kind.WALK: _walks,
    Kind.RUN: _runs,
    Kind.JUMP: _jumps,
    Kind.WAVE: _waves,
    Kind.SIT: _sits,
    Kind.KICK: _kicks,
    Kind.BOW: _bows,
    Kind.TURN: _turns,
}
