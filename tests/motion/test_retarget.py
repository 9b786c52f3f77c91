"""Retargeting: skeletons of other people's names become the 22 joints, wherever those are."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from motion.bvh import Bvh, from_poses
from motion.retarget import match, plain, ready, retarget, uniform
from motion.skeleton import HUMAN
from tests.support.poses import wander

MIXAMO = {
    "pelvis": "Hips",
    "spine1": "Spine",
    "spine2": "Spine1",
    "spine3": "Spine2",
    "neck": "Neck",
    "head": "Head",
    "hip": "UpLeg",
    "knee": "Leg",
    "ankle": "Foot",
    "foot": "ToeBase",
    "collar": "Shoulder",
    "shoulder": "Arm",
    "elbow": "ForeArm",
    "wrist": "Hand",
}
DAZ = {
    "pelvis": "hip",
    "spine1": "abdomen",
    "spine2": "abdomen2",
    "spine3": "chest",
    "neck": "neck",
    "head": "head",
    "hip": "Thigh",
    "knee": "Shin",
    "ankle": "Foot",
    "foot": "Toe",
    "collar": "Collar",
    "shoulder": "Shldr",
    "elbow": "ForeArm",
    "wrist": "Hand",
}
SMPL = {
    "pelvis": "Pelvis",
    "spine1": "Spine1",
    "spine2": "Spine2",
    "spine3": "Spine3",
    "neck": "Neck",
    "head": "Head",
    "hip": "Hip",
    "knee": "Knee",
    "ankle": "Ankle",
    "foot": "Foot",
    "collar": "Collar",
    "shoulder": "Shoulder",
    "elbow": "Elbow",
    "wrist": "Wrist",
}


def renamed(bvh: Bvh, words: dict[str, str], left: str, right: str) -> Bvh:
    def name(ours: str) -> str:
        side, _, rest = ours.partition("_")
        return {"left": left, "right": right}[side] + words[rest] if rest else words[ours]

    return dataclasses.replace(bvh, names=tuple(name(ours) for ours in bvh.names))


@pytest.mark.parametrize(
    ("words", "left", "right"),
    [
        (MIXAMO, "Left", "Right"),
        (MIXAMO, "mixamorig:Left", "mixamorig:Right"),
        (DAZ, "l", "r"),
        (SMPL, "L_", "R_"),
    ],
)
def test_known_names_find_the_22_joints(words: dict[str, str], left: str, right: str) -> None:
    poses = wander(20)
    found = retarget(renamed(from_poses(poses, 20.0), words, left, right), unit=0.01)
    assert float((found - poses).abs().max()) < 1e-6


def test_names_are_compared_without_prefix_case_and_separators() -> None:
    assert plain("mixamorig:LeftUpLeg") == "leftupleg"
    assert plain("rShldr") == "rightshldr"
    assert plain("Bip01 L Thigh") == "leftthigh"
    assert plain("hand.R") == "righthand"
    assert plain("lowerback") == "lowerback" and plain("root") == "root"


def test_legs_set_the_scale_and_the_frame_rate_is_brought_to_20() -> None:
    poses = wander(61)
    bvh = from_poses(poses, 60.0, scale=39.37)
    assert float((retarget(bvh) - poses).abs().max()) < 1e-5  # these are the reference legs
    assert torch.allclose(ready(bvh), poses[::3], atol=1e-5)


def test_z_up_is_turned_to_y_up() -> None:
    bvh = from_poses(wander(12), 20.0)
    swap = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)  # y up to z up
    turned = dataclasses.replace(bvh, offsets=bvh.offsets @ swap.T)
    turned.values[:, :3] = bvh.values[:, :3] @ swap.T
    turned.values[:, 3:] = 0
    found = retarget(turned, unit=0.01)
    height = found[:, HUMAN.names.index("head")] - found[:, HUMAN.names.index("left_ankle")]
    assert bool((height[:, 1] > 1.0).all()) and float(height[:, 2].abs().max()) < 0.2


def test_fewer_spine_joints_and_no_collars_keep_bones_stiff() -> None:
    whole = renamed(from_poses(wander(20), 20.0), MIXAMO, "Left", "Right")
    leave = [whole.names.index(name) for name in ("Spine1", "LeftShoulder", "RightShoulder")]
    dropped = without(whole, leave)
    lengths = HUMAN.lengths(retarget(dropped))
    moving = [HUMAN.names[i + 1] for i in range(21) if float(lengths[:, i].std()) > 1e-9]
    assert moving == []


def without(bvh: Bvh, leave: list[int]) -> Bvh:
    """The file without some joints, their children being given to their parents where they stand at rest."""
    keep = [joint for joint in range(len(bvh.names)) if joint not in leave]
    parents, offsets = [], []
    for joint in keep:
        parent, offset = bvh.parents[joint], bvh.offsets[joint].clone()
        while parent in leave:
            offset += bvh.offsets[parent]
            parent = bvh.parents[parent]
        parents.append(keep.index(parent) if parent >= 0 else -1)
        offsets.append(offset)
    columns = [c for joint in keep for c in (range(6) if joint == 0 else range(3 + 3 * joint, 6 + 3 * joint))]
    return Bvh(
        tuple(bvh.names[j] for j in keep),
        tuple(parents),
        torch.stack(offsets),
        tuple(bvh.channels[j] for j in keep),
        {},
        bvh.values[:, columns],
        bvh.frame_time,
    )


def test_unknown_joints_are_named_and_can_be_mapped() -> None:
    bvh = from_poses(wander(5), 20.0)
    strange = dataclasses.replace(bvh, names=tuple("Gizmo" if n == "left_knee" else n for n in bvh.names))
    with pytest.raises(ValueError, match="none of its joints is the left_knee"):
        retarget(strange)
    assert torch.allclose(retarget(strange, {"left_knee": "Gizmo"}), retarget(bvh))
    with pytest.raises(ValueError, match="'Gadget' is none of its joints"):
        match(strange.joints(), {"left_knee": "Gadget"})


def test_uniform_gives_all_people_the_same_bones() -> None:
    poses = 1.2 * wander(15)
    lengths = HUMAN.lengths(wander(2))[0]
    same = uniform(poses, lengths)
    assert torch.allclose(HUMAN.lengths(same), lengths.expand(15, -1), atol=1e-9)
    assert torch.allclose(same, poses / 1.2, atol=1e-9)
