"""What recordings need before they are described: a rest pose cut off, a frame rate, a floor.

Converters often put a rest pose before the first frame (cgspeed's of the CMU recordings does): in one or a few frames
the body is torn from it to where the motion begins, faster than it ever moves afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from motion.features import canonical, encode
from motion.kinematics import resample
from motion.skeleton import HUMAN, Skeleton
from motion.take import Take

FAST = 10.0  # metres a second: a joint of a recording that starts faster may come from a rest pose
TEAR = 2.0  # times the speed that 95 % of the frames stay below
REACH = 0.25  # seconds at either end that may be cut
FLOOR = 0.01  # share of the frames whose lowest joint may be in the ground
SHORTEST = 8  # rows of features


def torn(joints: Tensor, fps: float) -> int:
    """How many poses at the beginning of (T, J, 3) belong to a rest pose and the jump out of it."""
    speed = joints.diff(dim=0).norm(dim=-1).amax(-1) * fps  # (T - 1,)
    reach = max(int(REACH * fps), 1)
    if len(speed) < 4 * reach:
        return 0
    usual = float(speed[reach:-reach].quantile(0.95))
    first = speed[:reach]
    peak = int(first.argmax())
    if float(first[peak]) < max(FAST, TEAR * usual):
        return 0
    for end in range(peak + 1, reach):  # filters of converters leave a jump that fades over some frames
        here, before = float(speed[end]), float(speed[end - 1])
        if here < TEAR * usual and (here > 0.6 * before or here < 0.3 * usual):
            return end
    return reach


def trimmed(take: Take) -> Tensor:
    """Poses (T, J, 3) without the rest poses that a recording begins or ends with."""
    start, end = torn(take.joints, take.fps), torn(take.joints.flip(0), take.fps)
    return take.joints[start : len(take.joints) - end]


def on_floor(joints: Tensor, skeleton: Skeleton = HUMAN) -> Tensor:
    """``canonical`` with the floor where the lowest joint of all but a hundredth of the frames is."""
    joints = canonical(joints, skeleton)
    floor = joints[..., 1].amin(-1).quantile(FLOOR, dim=-1)
    return joints - floor * joints.new_tensor([0.0, 1.0, 0.0])


def features_of(take: Take) -> Tensor:
    """Features (T, 263) of a recording at 20 frames a second.

    Raises ValueError for one that is too short, or is no motion of a body that stands.
    """
    joints = resample(trimmed(take), take.fps, HUMAN.fps)
    if len(joints) <= SHORTEST:
        raise ValueError(
            f"it lasts {len(joints) / HUMAN.fps:.2g} s: at least {(SHORTEST + 1) / HUMAN.fps:.2g} are needed"
        )
    joints = on_floor(joints)
    features = encode(joints)
    if not bool(features.isfinite().all()):
        raise ValueError("its poses are no body: joints coincide")
    heads = joints[:, HUMAN.names.index("head"), 1] - joints[:, list(HUMAN.feet), 1].mean(-1)
    if float(heads.median()) < 0:
        raise ValueError("its head is below its feet: it stands on its hands, or another axis is up")
    return features.to(torch.float32)
