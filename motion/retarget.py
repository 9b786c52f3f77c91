"""From anybody's skeleton to the 22 joints, by the names of the joints.

Names are compared without case, separators and prefixes such as "mixamorig:". Spines of any number of joints are
spread over spine1, spine2 and spine3; missing collars are put on the line between their neighbours, and missing toes
where a foot of usual size has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from motion.bvh import Bvh
from motion.features import check
from motion.kinematics import published_forward, published_rotations, resample
from motion.rotation import about_y, inverse
from motion.skeleton import HUMAN, Skeleton

# For every joint the names it goes by, without side; the first that a file has and that is not taken yet is taken.
MIDDLE = {
    "pelvis": "pelvis hips hip root reference",
    "neck": "neck neck1 neck01 lowerneck",
    "head": "head head1",
}
SIDED = {
    "hip": "upleg upperleg thigh hip femur rightupleg",
    "knee": "leg lowerleg shin knee calf tibia",
    "ankle": "ankle foot",
    "foot": "toebase toe toes ball foot footend",
    "shoulder": "arm upperarm uparm shldr humerus shoulder",
    "collar": "collar clavicle shoulder",
    "elbow": "forearm lowerarm elbow lowarm radius",
    "wrist": "hand wrist",
}
SPINE = re.compile(r"(spine|chest|abdomen|torso|lowerback|upperback|waist|thorax|upperchest|upspine)\d*$")


TOE = (0.055, 0.125)  # metres: how far a toe is below its ankle and before it, on a foot that stands


@dataclass(frozen=True)
class Performance:
    """A motion of anybody's skeleton, by the names of its joints. Parents are places in ``names``; a root's is -1.

    Without parents, joints with the names of spines are the spine, from below.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    joints: Mapping[str, Tensor]  # (T, 3) each, tips of chains as "NAME.end" among them
    rest: Mapping[str, Tensor]  # (1, 3) each: a pose that shows how long its legs are and where up is
    fps: float


def performance(bvh: Bvh) -> Performance:
    """The motion of a BVH file."""
    return Performance(bvh.names, bvh.parents, bvh.joints(), bvh.resting().joints(), bvh.fps)


def plain(name: str) -> str:
    """A joint's name as it is compared: "mixamorig:LeftUpLeg" -> "leftupleg", "rShldr" -> "rightshldr"."""
    word = re.split(r"[:|]", name)[-1]
    word = re.sub(r"^(Bip\d*|Character\d*|Skeleton)[ _]*", "", word)
    side = re.match(r"(?i:(left|right))[ _]?|([lrLR])(?=[ _A-Z])[ _]?", word)
    tail = re.search(r"[ _.]([lrLR])$", word)
    if side:
        letter, word = (side[1] or side[2])[0], word[side.end() :]
    elif tail:
        letter, word = tail[1], word[: tail.start()]
    else:
        letter = ""
    word = re.sub(r"[^a-z0-9]", "", word.lower())
    return {"l": "left", "r": "right", "": ""}[letter.lower()] + word


def match(names: Mapping[str, Tensor], own: Mapping[str, str] | None = None) -> dict[str, str]:
    """Which of a file's joints stands for which of ours: ours -> theirs. ``own`` adds or overrules pairs.

    Raises ValueError for a joint that has no counterpart and cannot be put between its neighbours.
    """
    seen: dict[str, str] = {}
    for name in names:
        seen.setdefault(plain(name.removesuffix(".end")) + ("end" if name.endswith(".end") else ""), name)
    found: dict[str, str | None] = {joint: _first(seen, words.split()) for joint, words in MIDDLE.items()}
    for side in ("left", "right"):
        for joint, words in SIDED.items():
            free = [side + word for word in words.split() if seen.get(side + word) not in found.values()]
            found[f"{side}_{joint}"] = _first(seen, free)
    found["head"] = found["head"] or seen.get(plain(found["neck"] or "") + "end")
    taken = {ours: theirs for ours, theirs in found.items() if theirs} | dict(own or {})
    unknown = [theirs for theirs in (own or {}).values() if theirs not in names]
    needed = [name for name in HUMAN.names if name not in taken and not name.endswith(("_collar", "_foot"))]
    needed = [name for name in needed if "spine" not in name]
    if unknown or needed:
        what = f"'{unknown[0]}' is none of its joints" if unknown else f"none of its joints is the {needed[0]}"
        some = ", ".join(list(names)[:12])
        raise ValueError(f"the skeleton cannot be retargeted, {what}: name it yourself; there are {some} ...")
    return taken


def _first(seen: Mapping[str, str], words: list[str]) -> str | None:
    return next((seen[word] for word in words if word in seen), None)


def retarget(source: Bvh | Performance, own: Mapping[str, str] | None = None, unit: float | None = None) -> Tensor:
    """The 22 joints of a motion, (T, 22, 3) float64 metres with y up, in its own bone proportions and frame rate.

    unit: metres a unit of the file; by default the legs are scaled to those of ``HUMAN``. own: see ``match``. Raises
    ValueError for joints that are not known.
    """
    source = performance(source) if isinstance(source, Bvh) else source
    names = match(source.joints, own)
    spine = _spine(source.names, source.parents, names)
    joints, rest = (_gather(theirs, names, spine) for theirs in (source.joints, source.rest))
    if unit is None:
        legs = _legs(HUMAN.lengths(rest)[0])
        unit = float(_legs(HUMAN.offsets(torch.float64)[1:].norm(dim=-1)) / legs)
    up = rest[0, HUMAN.names.index("head")] - rest[0, [7, 8]].mean(0)
    if up.abs().argmax() == 2:  # z up: turn it about x
        joints = joints[..., [0, 2, 1]] * joints.new_tensor([1.0, 1.0, -1.0])
    joints = joints * unit
    for ankle, toe in (HUMAN.feet[:2], HUMAN.feet[2:]):
        if HUMAN.names[toe] not in names:
            joints[:, toe] = _toe(joints, HUMAN.parents[ankle], ankle)
    return joints


def _toe(joints: Tensor, knee: int, ankle: int) -> Tensor:
    """Where a toe would be (T, 3): level where the ankle is low, at right angles to the shin where it is high.

    It points where the hips do, smoothed over five frames.
    """
    right, left = HUMAN.facing[:2]
    across = joints[:, left] - joints[:, right]
    ahead = torch.stack([-across[:, 2], torch.zeros_like(across[:, 0]), across[:, 0]], dim=-1)
    kernel = torch.ones(1, 1, 5, dtype=joints.dtype) / 5
    ahead = F.conv1d(F.pad(ahead.T[:, None], (2, 2), mode="replicate"), kernel)[:, 0].T
    ahead = F.normalize(ahead, dim=-1)
    shin = F.normalize(joints[:, ankle] - joints[:, knee], dim=-1)
    below, before = TOE
    level = before * ahead - below * torch.eye(3, dtype=joints.dtype)[1]
    square = before * F.normalize(ahead - (ahead * shin).sum(-1, keepdim=True) * shin, dim=-1) + below * shin
    height = joints[:, ankle, 1] - joints[:, list(HUMAN.feet[::2]), 1].min()
    lifted = ((height - 0.02) / 0.08).clamp(0, 1)[:, None]
    lifted = lifted * lifted * (3 - 2 * lifted)
    return joints[:, ankle] + level * (1 - lifted) + square * lifted


def _legs(lengths: Tensor) -> Tensor:
    """Thigh and shin, the mean of both sides, of bone lengths (21,)."""
    return lengths[[3, 4, 6, 7]].sum() / 2


def _gather(theirs: Mapping[str, Tensor], names: Mapping[str, str], chain: Sequence[str]) -> Tensor:
    """(T, 22, 3): what is named, and what lies between; a missing toe is where its ankle is."""
    at = {ours: theirs[name] for ours, name in names.items()}
    spine = [at["pelvis"], *(theirs[name] for name in chain), at["neck"]]
    inner = spine[1:-1]
    if len(inner) >= 3:
        chosen = [inner[0], inner[(len(inner) - 1) // 2], inner[-1]]
    elif len(inner) == 2:
        chosen = [inner[0], (inner[0] + inner[1]) / 2, inner[1]]
    elif len(inner) == 1:
        chosen = [(spine[0] + inner[0]) / 2, inner[0], (inner[0] + spine[2]) / 2]
    else:
        chosen = [spine[0] + (spine[1] - spine[0]) * share for share in (0.25, 0.5, 0.75)]
    at |= {f"spine{i}": place for i, place in enumerate(chosen, start=1) if f"spine{i}" not in names}
    for side in ("left", "right"):
        base = at["spine3"] + 0.6 * (at["neck"] - at["spine3"])
        at.setdefault(f"{side}_collar", base + 0.35 * (at[f"{side}_shoulder"] - base))
        at.setdefault(f"{side}_foot", at[f"{side}_ankle"])
    return torch.stack([at[name] for name in HUMAN.names], dim=1)


def _spine(joints: Sequence[str], parents: Sequence[int], names: Mapping[str, str]) -> list[str]:
    """The joints between pelvis and neck, from below."""
    if not parents:
        return [name for name in joints if SPINE.match(plain(name))]
    chain: list[str] = []
    joint = parents[joints.index(names["neck"])]
    while joint >= 0 and joints[joint] != names["pelvis"]:
        chain.insert(0, joints[joint])
        joint = parents[joint]
    return [name for name in chain if SPINE.match(plain(name))] or chain


def uniform(joints: Tensor, lengths: Tensor, skeleton: Skeleton = HUMAN) -> Tensor:
    """The same motion (T, J, 3) of a body with bones of these lengths (J - 1,), its path scaled by the legs.

    This is how the published data sets bring all people to one body.
    """
    check(joints, skeleton)
    knees = [skeleton.parents[skeleton.feet[0]] - 1, skeleton.feet[0] - 1]
    scale = lengths[knees].sum() / skeleton.lengths(joints)[..., 0, knees].sum()
    still = inverse(about_y(joints.new_zeros(joints.shape[:-2])))
    local = published_rotations(joints, still, skeleton)
    return published_forward(local, lengths, joints[..., 0, :] * scale, skeleton)


def ready(bvh: Bvh, own: Mapping[str, str] | None = None, fps: float = HUMAN.fps) -> Tensor:
    """The 22 joints of a BVH (T, 22, 3) in metres at a frame rate."""
    return resample(retarget(bvh, own), bvh.fps, fps)
