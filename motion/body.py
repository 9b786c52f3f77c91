"""From the curves of tracks to joints, many clips at a time: bones keep their length and standing feet stay put.

The feet come first. Where a leg would be too short to reach the foot it stands on, the pelvis sinks; the knee follows
in closed form from the law of cosines. Trunk and arms hang on the pelvis by forward kinematics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d, uniform_filter1d

from motion.curves import FPS, NAMES, SIDES, SIGN, Curve, Track
from motion.skeleton import HUMAN

JOINT = {name: place for place, name in enumerate(HUMAN.names)}
REST = np.array(HUMAN.rest)
REACH = 0.998  # of the leg's length: a knee is never quite straight
BONES = {  # which bones grow together
    "legs": ("knee", "ankle"),
    "arms": ("elbow", "wrist"),
    "trunk": ("spine1", "spine2", "spine3", "neck", "head"),
    "breadth": ("hip", "collar", "shoulder"),
    "feet": ("foot",),
}


@dataclass(frozen=True)
class Proportions:
    """Factors of the bones of a person."""

    size: float = 1.0
    legs: float = 1.0
    arms: float = 1.0
    trunk: float = 1.0
    breadth: float = 1.0
    feet: float = 1.0

    def offsets(self) -> Curve:
        """Each joint from its parent in the rest pose, (22, 3)."""
        factor = np.ones(len(HUMAN.names))
        for part, words in BONES.items():
            for joint, name in enumerate(HUMAN.names):
                if name.split("_")[-1] in words:
                    factor[joint] = getattr(self, part)
        return REST * (self.size * factor)[:, None]


def turn_x(angle: Curve) -> Curve:
    """Rotations (..., 3, 3) about x; a positive angle leans a standing body forwards."""
    return _turn(angle, 1, 2)


def turn_y(angle: Curve) -> Curve:
    """Rotations (..., 3, 3) about y; a positive angle turns +z to +x, which is to the left."""
    return _turn(angle, 2, 0)


def turn_z(angle: Curve) -> Curve:
    """Rotations (..., 3, 3) about z; a positive angle leans a standing body to its right."""
    return _turn(angle, 0, 1)


def _turn(angle: Curve, i: int, j: int) -> Curve:
    turned = np.zeros((*angle.shape, 3, 3))
    turned[..., 3 - i - j, 3 - i - j] = 1
    turned[..., i, i] = turned[..., j, j] = np.cos(angle)
    turned[..., j, i] = np.sin(angle)
    turned[..., i, j] = -np.sin(angle)
    return turned


def apply(turned: Curve, v: Curve) -> Curve:
    """Vectors (..., 3) turned by rotations (..., 3, 3)."""
    return (turned * v[..., None, :]).sum(-1)


def pose(tracks: Sequence[Track], people: Sequence[Proportions]) -> Curve:
    """The joints of clips, (B, T, 22, 3) metres: y up, facing +z at first, the ground at 0."""
    curves = {name: np.stack([track.curves[name] for track in tracks]) for name in NAMES}  # (B, T)
    offsets = np.stack([person.offsets() for person in people])[:, None]  # (B, 1, 22, 3)
    stand, fore = _support(curves)
    pelvis, turned, trunk = _trunk(curves, offsets, stand, fore)
    joints = np.zeros((*curves["x"].shape, len(HUMAN.names), 3))
    feet = [_foot(curves, offsets, side) for side in SIDES]
    hips = [apply(turned, offsets[..., JOINT[f"{side}_hip"], :]) for side in SIDES]
    pelvis[..., 1] -= _sink(curves, offsets, pelvis, hips, [ankle for ankle, _ in feet])
    joints[..., 0, :] = pelvis
    for side, hip, (ankle, sole) in zip(SIDES, hips, feet):
        _leg(joints, curves, offsets, side, pelvis + hip, ankle, sole)
    _upper(joints, curves, offsets, turned, trunk, fore)
    return joints


def _support(curves: Mapping[str, Curve]) -> tuple[Curve, Curve]:
    """(2, B, T): how much each foot carries, and how far ahead of the body it is."""
    ahead = np.stack([np.sin(curves["yaw"]), np.cos(curves["yaw"])])
    stand, fore = [], []
    for side in SIDES:
        stand.append(gaussian_filter1d(curves[f"{side}_down"], 0.07 * FPS, axis=1, mode="nearest"))
        away = np.stack([curves[f"{side}_toe_x"] - curves["x"], curves[f"{side}_toe_z"] - curves["z"]])
        fore.append((away * ahead).sum(0) - 0.07)
    return np.stack(stand), np.stack(fore)


def _trunk(
    curves: Mapping[str, Curve], offsets: Curve, stand: Curve, fore: Curve
) -> tuple[Curve, Curve, tuple[Curve, Curve, Curve]]:
    """Pelvis (B, T, 3), its rotation (B, T, 3, 3), and the bends of the spine: forwards, sideways, about itself."""
    swing, yaw = curves["swing"], curves["yaw"]
    twist = 0.25 * swing * (fore[1] - fore[0])  # the pelvis follows the leg that is ahead
    across = curves["shift"] * (stand[0] - stand[1])
    ahead = curves["fore"]
    legs = offsets[..., JOINT["left_knee"], :], offsets[..., JOINT["left_ankle"], :]
    height = np.linalg.norm(legs[0], axis=-1) + np.linalg.norm(legs[1], axis=-1)
    height = 0.985 * height - offsets[..., JOINT["left_hip"], 1] - offsets[..., JOINT["left_foot"], 1]
    air = 1 - stand.max(0)
    pelvis = np.stack(
        [
            curves["x"] + across * np.cos(yaw) + ahead * np.sin(yaw),
            height + curves["rise"] + curves["bounce"] * air,
            curves["z"] - across * np.sin(yaw) + ahead * np.cos(yaw),
        ],
        axis=-1,
    )
    roll = 0.6 * curves["shift"] * (stand[0] - stand[1])  # the free hip drops
    turned = turn_y(yaw + twist) @ turn_x(curves["lean"]) @ turn_z(roll)
    return pelvis, turned, (curves["bend"], curves["side"] - roll, curves["turn"] - 2 * twist)


def _foot(curves: Mapping[str, Curve], offsets: Curve, side: str) -> tuple[Curve, Curve]:
    """Ankle (B, T, 3) and the sole from ankle to toe (B, T, 3)."""
    toe = np.stack([curves[f"{side}_toe_{axis}"] for axis in "xyz"], axis=-1)
    turned = turn_y(curves[f"{side}_toe_yaw"]) @ turn_x(curves[f"{side}_pitch"])
    sole = apply(turned, np.broadcast_to(offsets[..., JOINT[f"{side}_foot"], :], toe.shape))
    return toe - sole, sole


def _sink(
    curves: Mapping[str, Curve], offsets: Curve, pelvis: Curve, hips: Sequence[Curve], ankles: Sequence[Curve]
) -> Curve:
    """By how much the pelvis must sink (B, T) so that legs reach the feet that stand, spread so that it is smooth.

    The largest need in a window, averaged over the same window, is nowhere less than the need itself.
    """
    need = np.zeros(pelvis.shape[:2])
    for side, hip, ankle in zip(SIDES, hips, ankles):
        away = pelvis + hip - ankle
        length = REACH * np.linalg.norm(offsets[..., [JOINT[f"{side}_knee"], JOINT[f"{side}_ankle"]], :], axis=-1).sum(
            -1
        )
        limit = np.sqrt(np.maximum(length**2 - away[..., 0] ** 2 - away[..., 2] ** 2, 0.01))
        need = np.maximum(need, np.where(curves[f"{side}_down"] > 0, away[..., 1] - limit, 0))
    return uniform_filter1d(maximum_filter1d(need, 5, axis=1, mode="nearest"), 5, axis=1, mode="nearest")


def _leg(
    joints: Curve, curves: Mapping[str, Curve], offsets: Curve, side: str, hip: Curve, ankle: Curve, sole: Curve
) -> None:
    """Set hip, knee, ankle and toe of a side; a foot in the air that is out of reach comes as near as the leg can."""
    thigh, shin = (np.linalg.norm(offsets[..., JOINT[f"{side}_{part}"], :], axis=-1) for part in ("knee", "ankle"))
    to_ankle = ankle - hip
    far = np.linalg.norm(to_ankle, axis=-1)
    reach = np.clip(far, 1.05 * np.abs(thigh - shin), REACH * (thigh + shin))
    along = to_ankle / far[..., None]
    facing = (curves["yaw"] + curves[f"{side}_toe_yaw"]) / 2
    front = np.stack([np.sin(facing), np.full_like(facing, 0.4), np.cos(facing)], axis=-1)
    front -= (front * along).sum(-1, keepdims=True) * along
    front /= np.linalg.norm(front, axis=-1, keepdims=True)
    share = (thigh**2 - shin**2 + reach**2) / (2 * reach)
    out = np.sqrt(np.maximum(thigh**2 - share**2, 0))
    joints[..., JOINT[f"{side}_hip"], :] = hip
    joints[..., JOINT[f"{side}_knee"], :] = hip + share[..., None] * along + out[..., None] * front
    joints[..., JOINT[f"{side}_ankle"], :] = hip + reach[..., None] * along
    joints[..., JOINT[f"{side}_foot"], :] = joints[..., JOINT[f"{side}_ankle"], :] + sole


def _upper(
    joints: Curve,
    curves: Mapping[str, Curve],
    offsets: Curve,
    turned: Curve,
    trunk: tuple[Curve, Curve, Curve],
    fore: Curve,
) -> None:
    """Set spine, head and arms; arms swing with the leg of the other side."""
    bend = turn_x(trunk[0] / 3) @ turn_z(trunk[1] / 3) @ turn_y(trunk[2] / 3)
    above, at = turned, joints[..., 0, :]
    for name in ("spine1", "spine2", "spine3"):
        at = at + apply(above, offsets[..., JOINT[name], :])
        joints[..., JOINT[name], :] = at
        above = above @ bend
    neck = at + apply(above, offsets[..., JOINT["neck"], :])
    joints[..., JOINT["neck"], :] = neck
    # The head faces ahead while the shoulders swing.
    head = above @ turn_y(-0.5 * trunk[2]) @ turn_x(curves["nod"])
    joints[..., JOINT["head"], :] = neck + apply(head, offsets[..., JOINT["head"], :])
    for number, side in enumerate(SIDES):
        collar = at + apply(above, offsets[..., JOINT[f"{side}_collar"], :])
        shoulder = collar + apply(above, offsets[..., JOINT[f"{side}_shoulder"], :])
        swing = curves["swing"] * fore[1 - number]
        elbow = shoulder + apply(above, _hanging(curves, offsets, side, "arm", swing, "elbow"))
        wrist = elbow + apply(above, _hanging(curves, offsets, side, "fore", 1.2 * swing, "wrist"))
        for part, place in (("collar", collar), ("shoulder", shoulder), ("elbow", elbow), ("wrist", wrist)):
            joints[..., JOINT[f"{side}_{part}"], :] = place


def _hanging(curves: Mapping[str, Curve], offsets: Curve, side: str, part: str, swing: Curve, joint: str) -> Curve:
    """A part of an arm (B, T, 3) as the chest sees it, swung forwards by an angle."""
    out, round_ = curves[f"{side}_{part}_out"], curves[f"{side}_{part}_round"]
    length = np.linalg.norm(offsets[..., JOINT[f"{side}_{joint}"], :], axis=-1)
    hang = np.stack([SIGN[side] * np.sin(out) * np.sin(round_), -np.cos(out), np.sin(out) * np.cos(round_)], axis=-1)
    return length[..., None] * apply(turn_x(-swing), hang)
