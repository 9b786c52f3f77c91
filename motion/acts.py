"""What a body can do: each act writes its curves into a track from ``track.now`` on, and moves ``now`` to its end.

A wave does not move ``now``: it runs in parallel with the legs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from motion.curves import SIDES, SIGN, Curve, Gait, Track, minimum_jerk, travel

GRAVITY = 9.81


@dataclass(frozen=True)
class Style:
    """How someone moves, whatever they do; none of it is in the caption."""

    swing: float = 1.4  # of the arms, radians for each metre between the feet
    stoop: float = 0.0  # of the back, radians
    vigour: float = 1.0  # how fast and wide gestures are
    bounce: float = 1.0
    width: float = 0.1  # from the middle to a foot
    first: str = "left"  # the foot of the first step


def stand(track: Track, seconds: float) -> None:
    """Do nothing."""
    track.now += seconds


def walk(track: Track, style: Style, seconds: float, speed: float, heading: float, turn: float) -> None:
    """Walk; heading: the direction as the body sees it, 0 forwards and positive to the left; turn: of the body."""
    ahead, across = speed * np.cos(heading), speed * np.sin(heading)
    sideways = abs(np.sin(heading)) > 0.5
    period = 0.44 if sideways else float(np.clip(0.72 - 0.17 * speed, 0.42, 0.66))
    width = max(style.width, 0.13) if sideways else style.width
    first = style.first if not sideways else ("left" if across > 0 else "right")
    start = track.now
    travel(track, seconds, (ahead, across), turn, Gait(period, 0.76, 0.08 + 0.02 * speed, width), first)
    share = track.envelope(start, track.now, 0.4)
    track.add("swing", share * style.swing * (0.2 if sideways else 1.0))
    track.add("shift", share * 0.03)
    track.add("rise", share * -0.015)
    track.add("lean", share * 0.04 * np.cos(heading) * speed)
    track.now += 0.1


def run(track: Track, style: Style, seconds: float, speed: float, turn: float) -> None:
    """Run forwards, both feet in the air between the steps."""
    start = track.now
    period = 0.40 - 0.02 * speed
    travel(
        track, seconds, (speed, 0.0), turn, Gait(period, 1.25, 0.1 + 0.05 * speed, 0.7 * style.width), style.first, 0.6
    )
    share = track.envelope(start, track.now, 0.4)
    track.add("swing", share * 0.75 * style.swing)
    track.add("shift", share * 0.015)
    track.add("bounce", share * 0.07 * style.bounce)
    track.add("rise", share * -0.03)
    track.add("lean", share * 0.06 * speed)
    for side in SIDES:
        track.arm(side, share, (12.0, 60.0, 82.0, -12.0))
    track.now += 0.15


def turn(track: Track, style: Style, angle: float) -> None:
    """Turn on the spot by small steps; positive to the left."""
    start = track.now
    first = "left" if angle > 0 else "right"
    seconds = 0.35 + 0.62 * abs(angle) / 1.57 / style.vigour
    travel(track, seconds, (0.0, 0.0), angle, Gait(0.36, 0.8, 0.08, style.width), first, 0.25)
    share = track.envelope(start, track.now, 0.25)
    track.add("shift", share * 0.03)
    track.add("turn", share * 0.2 * np.sign(angle))
    track.now += 0.1


def wave(track: Track, style: Style, side: str, start: float, stop: float) -> None:
    """Raise a hand next to the head and wave it from a time to another."""
    share = track.envelope(start, stop, 0.45 / style.vigour)
    beat = np.sin(2 * np.pi * 1.5 * style.vigour * (track.time - start))
    track.arm(side, share, (88.0 + 4 * beat, 78.0, 172.0 - 26 * beat, 95.0))
    track.add("side", share * SIGN[side] * 0.05)


def jump(track: Track, style: Style, height: float, distance: float) -> None:
    """Crouch, jump so that the pelvis rises by ``height``, travel forwards by ``distance`` in the air, and land."""
    speed = float(np.sqrt(2 * GRAVITY * height))
    depth, fly = 0.09 + 0.36 * height, 2 * speed / GRAVITY
    crouch, push, settle = 0.45, 1.7 * depth / speed, 0.55
    leave = track.now + crouch + push
    land = leave + fly
    time = track.time
    rise = -depth * minimum_jerk((time - track.now) / crouch)
    rise = np.where(time > leave - push, _hermite((time - leave + push) / push, -depth, 0.0, 0.0, speed * push), rise)
    above = speed * (time - leave) - GRAVITY / 2 * (time - leave) ** 2
    rise = np.where(time > leave, above, rise)
    sink = 2 * depth / speed
    rise = np.where(time > land, _hermite((time - land) / sink, 0.0, -0.8 * depth, -speed * sink, 0.0), rise)
    rise = np.where(time > land + sink, -0.8 * depth * (1 - minimum_jerk((time - land - sink) / settle)), rise)
    track.add("rise", rise)
    end = land + sink + settle
    flying = (time > leave) & (time < land)
    share = np.clip((time - leave) / fly, 0, 1)
    offset = distance * np.array([np.sin(track.yaw), np.cos(track.yaw)])
    track.place = track.place + offset
    for name, gone in zip("xz", offset):
        track.curves[name] += gone * share
    for side in SIDES:
        toe, yaw = track.toe(side)
        track.plant(side, land, toe + offset, yaw)
        tuck = 0.5 * height * 4 * share[flying] * (1 - share[flying])
        values = {
            "toe_x": toe[0] + offset[0] * share[flying],
            "toe_z": toe[1] + offset[1] * share[flying],
            "toe_y": np.maximum(above[flying] - 0.06 * np.sin(np.pi * share[flying]), 0) + 0.3 * tuck,
            "pitch": 0.7 * np.sin(np.pi * share[flying]),
            "down": np.zeros(int(flying.sum())),
        }
        for part, value in values.items():
            track.curves[f"{side}_{part}"][flying] = value
    _jump_upper(track, leave, land, end, crouch + push, depth, effort=min(style.vigour * height / 0.4, 1.1))
    track.now = end


def _jump_upper(track: Track, leave: float, land: float, end: float, ready: float, depth: float, effort: float) -> None:
    """The trunk bends before and after a jump; the arms swing back and then up, the more the greater the effort."""
    before = track.envelope(leave - ready, leave + 0.05, 0.4, 0.25)
    after = track.envelope(land - 0.05, end, 0.15, 0.5)
    for share, much in ((before, 1.0), (after, 0.7)):
        track.add("bend", share * 1.6 * depth * much)
        track.add("lean", share * 1.6 * depth * much)
        track.add("fore", share * -0.25 * depth * much)
    back = track.envelope(leave - ready, leave + 0.05, 0.4, 0.35)
    up = track.envelope(leave - 0.3, land + 0.35, 0.45, 0.5)
    for side in SIDES:
        track.arm(side, back, (-28.0, 5.0, -18.0, 5.0))
        track.arm(side, up, (20 + 95 * effort, 15.0, 45 + 95 * effort, 10.0))


def _hermite(share: Curve, start: float, stop: float, speed_in: float, speed_out: float) -> Curve:
    """The cubic through two values with these slopes (for each unit of the share)."""
    s = np.clip(share, 0, 1)
    return (
        (1 + 2 * s) * (1 - s) ** 2 * start
        + s * (1 - s) ** 2 * speed_in
        + s**2 * (3 - 2 * s) * stop
        + s**2 * (s - 1) * speed_out
    )


def sit(track: Track, style: Style, height: float, seconds: float, rise: bool) -> None:
    """Sit down, on a seat so high that the pelvis sinks by ``height``; stay for some seconds; rise again if asked."""
    down = 1.1 / style.vigour
    start, up = track.now, track.now + down + seconds
    stop = up + down if rise else 1e9
    seated = track.envelope(start, stop, down)
    track.add("rise", -height * seated)
    track.add("fore", -0.36 * minimum_jerk(1.15 * seated))
    tilt = track.envelope(start, start + 1.15 * down, 0.5 * down)
    if rise:
        tilt = tilt + track.envelope(up - 0.15 * down, stop, 0.5 * down)
    track.add("lean", 0.35 * tilt)
    track.add("bend", 0.45 * tilt)
    track.add("nod", -0.3 * tilt)
    for side in SIDES:
        track.arm(side, seated, (22.0, 25.0, 78.0, -4.0))
    track.now = up + (down if rise else 0.0)


def kick(track: Track, style: Style, side: str, height: float) -> None:
    """Swing a foot back, kick forwards to a height, and set it down again where it stood."""
    seconds = 1.55 / style.vigour
    start, stop = track.now, track.now + seconds
    other = SIDES[1 - SIDES.index(side)]
    track.add("shift", 0.085 * track.envelope(start - 0.1, stop + 0.1, 0.35))
    toe, _ = track.toe(side)
    keys = np.array([0.0, 0.34, 0.58, 0.8, 1.0])
    share = (track.time - start) / seconds
    moving = (share > 0) & (share < 1)
    s = share[moving]
    ahead = _keyed(s, keys, [0.0, -0.38, 0.72, 0.12, 0.0])
    lifted = _keyed(s, keys, [0.0, 0.22, height, 0.14, 0.0])
    values = {
        "toe_x": toe[0] + ahead * np.sin(track.yaw),
        "toe_z": toe[1] + ahead * np.cos(track.yaw),
        "toe_y": lifted,
        "pitch": _keyed(s, keys, [0.0, 0.9, -0.5, 0.2, 0.0]),
        "down": np.zeros_like(s),
    }
    for part, value in values.items():
        track.curves[f"{side}_{part}"][moving] = value
    effort = track.envelope(start + 0.35 * seconds, start + 0.85 * seconds, 0.2 * seconds)
    track.add("lean", -0.22 * effort)
    track.add("bend", 0.1 * effort)
    track.arm(other, 0.8 * effort, (48.0, 15.0, 65.0, 5.0))
    track.arm(side, 0.8 * effort, (38.0, 140.0, 40.0, 120.0))
    track.now = stop + 0.1


def _keyed(share: Curve, keys: Curve, values: list[float]) -> Curve:
    """A smooth curve that rests for a moment at each key."""
    place = np.clip(np.searchsorted(keys, share, side="right") - 1, 0, len(keys) - 2)
    between = (share - keys[place]) / (keys[place + 1] - keys[place])
    points = np.array(values)
    return points[place] + minimum_jerk(between) * (points[place + 1] - points[place])


def bow(track: Track, style: Style, depth: float) -> None:
    """Bow by an angle, stay for a moment, and come up again."""
    down, hold = 0.8 / style.vigour, 0.35
    start, stop = track.now, track.now + 2 * down + hold
    share = track.envelope(start, stop, down)
    track.add("lean", 0.45 * depth * share)
    track.add("bend", 0.55 * depth * share)
    track.add("nod", 0.25 * depth * share)
    track.add("fore", -0.12 * depth * share)
    for side in SIDES:
        # Arms hang down from the bowed chest.
        track.arm(side, share, (np.degrees(0.6 * depth), 15.0, np.degrees(0.7 * depth), 10.0))
    track.now = stop
