"""Animation curves of a clip: pelvis, trunk, arms and feet in each frame, from which joints are computed.

Acts write curves into a track one after the other. The body follows a path on the ground; feet follow it by
steps, and between two steps a foot is nailed to where it landed. Angles are radians, lengths metres, times seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

FPS = 20.0
FRAMES = 121  # poses, which make 120 rows of features
SIDES = ("left", "right")
SIGN = {"left": 1.0, "right": -1.0}  # of x, as the body stands at rest facing +z

BODY = ("x", "z", "yaw", "rise", "fore", "lean", "bend", "side", "turn", "nod", "swing", "shift", "bounce")
ARM = ("arm_out", "arm_round", "fore_out", "fore_round")
FOOT = ("toe_x", "toe_y", "toe_z", "toe_yaw", "pitch", "down")
NAMES = (*BODY, *(f"{side}_{part}" for side in SIDES for part in (*ARM, *FOOT)))

# Arms hang a little outwards; forearms a little forwards. "out" is the angle from straight down, "round" that from
# forwards to the side.
REST_ARM = dict(zip(ARM, np.radians([9.0, 75.0, 16.0, 25.0]).tolist()))


def minimum_jerk(share: Curve) -> Curve:
    """0 to 1 with neither speed nor acceleration at the ends (minimum jerk)."""
    s = np.clip(share, 0.0, 1.0)
    return s**3 * (10 - 15 * s + 6 * s**2)


@dataclass
class Track:
    """Curves by name, and how far the clip has come: ``now``, the place on the ground, the feet."""

    width: float = 0.1  # from the middle to a foot
    curves: dict[str, Curve] = field(init=False)
    time: Curve = field(init=False)
    now: float = 0.0
    place: Curve = field(init=False)  # (2,) x and z of the path
    yaw: float = 0.0

    def __post_init__(self) -> None:
        self.time = np.arange(FRAMES) / FPS
        table = np.zeros((len(NAMES), FRAMES))
        self.curves = dict(zip(NAMES, table))
        self.place = np.zeros(2)
        for side in SIDES:
            for part, angle in REST_ARM.items():
                self.curves[f"{side}_{part}"][:] = angle
            self.plant(side, 0.0, self.footprint(side, self.place, self.yaw, self.width), self.yaw)

    def envelope(self, start: float, stop: float, rise: float, fall: float | None = None) -> Curve:
        """A curve that is 1 between two times, and rises and falls smoothly inside them."""
        fall = rise if fall is None else fall
        return minimum_jerk((self.time - start) / rise) * minimum_jerk((stop - self.time) / fall)

    def add(self, name: str, curve: Curve) -> None:
        """Add to a curve."""
        self.curves[name] += curve

    def blend(self, name: str, target: Curve | float, share: Curve) -> None:
        """Move a curve towards a target by a share in [0, 1]."""
        self.curves[name] += share * (target - self.curves[name])

    def arm(self, side: str, share: Curve, angles: tuple[Curve | float, ...]) -> None:
        """Move an arm by a share towards four angles, in the order of ``ARM``, in degrees."""
        for part, angle in zip(ARM, angles, strict=True):
            self.blend(f"{side}_{part}", np.radians(angle), share)

    def footprint(self, side: str, place: Curve, yaw: float, width: float) -> Curve:
        """Where the toe of a foot belongs (2,) when the body is at a place, facing ``yaw``."""
        across, ahead = SIGN[side] * width, 0.07
        sin, cos = np.sin(yaw), np.cos(yaw)
        return place + np.array([across * cos + ahead * sin, -across * sin + ahead * cos])

    def plant(self, side: str, start: float, toe: Curve, yaw: float) -> None:
        """Nail a foot to the ground from a time on."""
        later = self.time >= start - 1e-9
        values = {"toe_x": toe[0], "toe_y": 0.0, "toe_z": toe[1], "toe_yaw": yaw, "pitch": 0.0, "down": 1.0}
        for part, value in values.items():
            self.curves[f"{side}_{part}"][later] = value

    def toe(self, side: str) -> tuple[Curve, float]:
        """Where a foot's toe was set last, and how the foot points."""
        curves = self.curves
        return np.array([curves[f"{side}_toe_x"][-1], curves[f"{side}_toe_z"][-1]]), float(
            curves[f"{side}_toe_yaw"][-1]
        )


@dataclass(frozen=True)
class Gait:
    """How steps are made."""

    period: float  # seconds from one step to the next, of the other foot
    swing: float  # share of the period that a foot is in the air: above 1 both feet fly at times
    lift: float  # how high a foot is lifted
    width: float  # from the middle to a foot


def travel(
    track: Track, seconds: float, speed: tuple[float, float], turn: float, gait: Gait, first: str, ease: float = 0.4
) -> None:
    """Go along a path from ``track.now`` for some seconds, by steps until both feet stand side by side at its end.

    speed: forwards and to the left; turn: of the heading in all; first: the foot that steps first.
    """
    start, stop = track.now, track.now + seconds
    fine = np.arange(start, stop + 1.5, 1 / 60)
    pace = minimum_jerk((fine - start) / ease) * minimum_jerk((stop - fine) / ease)
    gone = np.concatenate([[0.0], np.cumsum((pace[1:] + pace[:-1]) / 2)]) / 60  # seconds at full speed
    yaw = track.yaw + turn * gone / gone[-1]
    ahead, across = speed
    velocity = pace * np.stack([ahead * np.sin(yaw) + across * np.cos(yaw), ahead * np.cos(yaw) - across * np.sin(yaw)])
    path = track.place[:, None] + np.cumsum(velocity, axis=1) / 60
    later = track.time >= start
    for name, curve in (("x", path[0]), ("z", path[1]), ("yaw", yaw)):
        track.curves[name][later] = np.interp(track.time[later], fine, curve)
    _step(track, fine, path, yaw, stop, gait, first, forwards=ahead > 0)
    track.place, track.yaw = path[:, -1], float(yaw[-1])


def _step(
    track: Track, fine: Curve, path: Curve, yaw: Curve, stop: float, gait: Gait, first: str, forwards: bool
) -> None:
    begin, side, last = track.now + 0.06, first, 0
    while last < 2:
        land = begin + gait.swing * gait.period
        middle = begin + gait.period + gait.swing * gait.period / 2  # of the rest that follows
        last = last + 1 if middle >= stop else 0
        place = np.array([np.interp(middle, fine, path[0]), np.interp(middle, fine, path[1])])
        facing = float(np.interp(middle, fine, yaw))
        here = np.array([np.interp(begin, fine, path[0]), np.interp(begin, fine, path[1])])
        swing_foot(track, side, begin, land, (place, facing), here, gait, forwards)
        track.now = max(track.now, land)
        side, begin = SIDES[1 - SIDES.index(side)], begin + gait.period


def swing_foot(
    track: Track,
    side: str,
    begin: float,
    land: float,
    aim: tuple[Curve, float],
    body: Curve,
    gait: Gait,
    forwards: bool,
) -> None:
    """Lift a foot at a time and set it down at another; going forwards the heel leaves first and the toe lands last."""
    place, facing = aim
    start, start_yaw = track.toe(side)
    goal, goal_yaw = track.footprint(side, place, facing, gait.width), facing + SIGN[side] * 0.1
    behind = float((body - start) @ np.array([np.sin(facing), np.cos(facing)])) if forwards else 0.0
    heel = min(max(1.6 * behind, 0.0), 0.8)
    share = (track.time - begin) / (land - begin)
    pitch = track.curves[f"{side}_pitch"]
    rising = (share <= 0) & (track.time > begin - 0.25)
    pitch[rising] = heel * minimum_jerk((track.time[rising] - begin + 0.25) / 0.25)
    flying = (share > 0) & (share < 1)
    s = share[flying]
    moved, bump = minimum_jerk((s - 0.06) / 0.88), (4 * s * (1 - s)) ** 1.2  # up first, then on
    track.plant(side, land, goal, goal_yaw)
    values = {
        "toe_x": start[0] + moved * (goal[0] - start[0]),
        "toe_z": start[1] + moved * (goal[1] - start[1]),
        "toe_y": gait.lift * bump,
        "toe_yaw": start_yaw + moved * (goal_yaw - start_yaw),
        "pitch": heel * (1 - minimum_jerk(1.5 * s)) - (0.25 if forwards else 0.0) * bump * s,
        "down": np.zeros_like(s),
    }
    for part, value in values.items():
        track.curves[f"{side}_{part}"][flying] = value
