"""From rotations to joints, and from joints back to rotations that put them there.

    world_j = world_parent(j) local_j,    joint_j = joint_parent(j) + world_parent(j) offset_j

Rotations sit at joints and turn what hangs on them. The published features use another convention, in which joint j's
rotation turns the bone that ends in j; ``published_rotations`` and ``published_forward`` are its two directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from motion.rotation import between, inverse, matrix_to_quaternion, multiply, quaternion_to_matrix, rotate, slerp
from motion.skeleton import Skeleton


def forward(local: Tensor, offsets: Tensor, root: Tensor, parents: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Local rotations (..., J, 3, 3), offsets from the parents (..., J, 3) and the root (..., 3) -> joints, rotations.

    Joints (..., J, 3) and rotations (..., J, 3, 3) are in the world.
    """
    joints, world = [root], [local[..., 0, :, :]]
    for joint in range(1, len(parents)):
        above = world[parents[joint]]
        joints.append(joints[parents[joint]] + (above * offsets[..., joint, None, :]).sum(-1))
        world.append(above @ local[..., joint, :, :])
    return torch.stack(joints, dim=-2), torch.stack(world, dim=-3)


def rotations(joints: Tensor, offsets: Tensor, parents: Sequence[int]) -> Tensor:
    """Local rotations (..., J, 3, 3) that bring a rest pose with these offsets (..., J, 3) to joints (..., J, 3).

    A joint with one child takes the shortest turn from its parent's; one with several takes the best fit of them all
    (Kabsch), which is exact if the joints came from this skeleton; the last of a chain does not turn.
    """
    count = len(parents)
    offsets = offsets.expand(joints.shape)
    still = torch.eye(3, dtype=joints.dtype, device=joints.device).expand(*joints.shape[:-2], 3, 3)
    world: list[Tensor] = []
    for joint in range(count):
        above = world[parents[joint]] if joint else still
        children = [child for child in range(count) if parents[child] == joint]
        seen = torch.stack([joints[..., c, :] - joints[..., joint, :] for c in children], -2) if children else None
        if seen is None:
            world.append(above)
            continue
        rest = offsets[..., children, :]
        if len(children) == 1:
            carried = (above * rest[..., 0, None, :]).sum(-1)
            world.append(quaternion_to_matrix(between(carried, seen[..., 0, :])) @ above)
        else:
            world.append(_fit(rest, seen))
    stacked = torch.stack(world, dim=-3)
    over = stacked[..., list(parents[1:]), :, :].transpose(-1, -2)
    return torch.cat([stacked[..., :1, :, :], over @ stacked[..., 1:, :, :]], dim=-3)


def _fit(rest: Tensor, seen: Tensor) -> Tensor:
    """The rotation (..., 3, 3) that takes directions (..., n, 3) closest to others, never a reflection (Kabsch)."""
    rest, seen = (v / v.norm(dim=-1, keepdim=True).clamp_min(1e-12) for v in (rest, seen))
    u, _, vh = torch.linalg.svd(seen.transpose(-1, -2) @ rest)
    sign = torch.linalg.det(u @ vh)
    ones = torch.ones_like(sign)
    return (u * torch.stack([ones, ones, sign], dim=-1)[..., None, :]) @ vh


def published_rotations(joints: Tensor, root: Tensor, skeleton: Skeleton) -> Tensor:
    """Quaternions (..., J, 4) as HumanML3D measures them, from joints (..., J, 3) and its root rotation (..., 4).

    Down each chain q_j = (q_root ... q_parent)^-1 between(direction_j, bone_j); every chain starts from the root's
    rotation, also those of the arms, which leave the spine at another joint (2204.14109, released code).
    """
    directions = torch.tensor(skeleton.directions, dtype=joints.dtype, device=joints.device)
    bones = joints[..., 1:, :] - joints[..., list(skeleton.parents[1:]), :]
    world = torch.cat([root[..., None, :], between(directions[1:], bones)], dim=-2)
    above = [0 if first else skeleton.parents[joint] for joint, first in enumerate(_starts(skeleton))]
    local = multiply(inverse(world[..., above[1:], :]), world[..., 1:, :])
    return torch.cat([root[..., None, :], local], dim=-2)


def published_forward(local: Tensor, offsets: Tensor, root: Tensor, skeleton: Skeleton) -> Tensor:
    """Joints (..., J, 3) of HumanML3D's quaternions (..., J, 4), bone lengths (..., J - 1) and root (..., 3)."""
    directions = torch.tensor(skeleton.directions, dtype=local.dtype, device=local.device)
    joints, world = [root], [local[..., 0, :]]
    for joint, first in list(enumerate(_starts(skeleton)))[1:]:
        parent = skeleton.parents[joint]
        world.append(multiply(world[0 if first else parent], local[..., joint, :]))
        bone = directions[joint] * offsets[..., joint - 1, None]
        joints.append(joints[parent] + rotate(world[-1], bone))
    return torch.stack(joints, dim=-2)


def _starts(skeleton: Skeleton) -> list[bool]:
    """Which joints are the first of a chain: a joint whose parent is continued by an earlier or more direct joint.

    The root starts three chains; at another fork (spine or neck) the chain to the head continues and the arms are new.
    """
    head = skeleton.names.index("head")
    to_head = {head}
    while (head := skeleton.parents[head]) >= 0:
        to_head.add(head)
    return [
        parent <= 0 or (len(skeleton.children(parent)) > 1 and joint not in to_head)
        for joint, parent in enumerate(skeleton.parents)
    ]


def resample(joints: Tensor, fps: float, to: float) -> Tensor:
    """Poses (..., T, J, 3) at another frame rate, linear between frames; exact where the rate divides.

    Both start together and the result ends no later. Raises ValueError for a rate that is not positive.
    """
    before, after, share = _between(joints.shape[-3], fps, to, joints)
    share = share.view(-1, 1, 1)
    return joints[..., before, :, :] * (1 - share) + joints[..., after, :, :] * share


def resample_rotations(local: Tensor, fps: float, to: float) -> Tensor:
    """Rotations (..., T, J, 3, 3) at another frame rate along shortest arcs, so that bones keep their length."""
    before, after, share = _between(local.shape[-4], fps, to, local)
    q = matrix_to_quaternion(local)
    mixed = slerp(q[..., before, :, :], q[..., after, :, :], share.view(-1, 1).expand(-1, local.shape[-3]))
    return quaternion_to_matrix(mixed)


def _between(count: int, fps: float, to: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not (fps > 0 and to > 0):
        raise ValueError(f"a frame rate must be positive: {fps} and {to} frames a second were given")
    last = int((count - 1) * to / fps + 1e-9)
    places = torch.arange(last + 1, dtype=torch.float64) * (fps / to)
    before = places.add(1e-9).floor().long().clamp(max=count - 1)
    after = (before + 1).clamp(max=count - 1)
    share = (places - before).clamp(0, 1)
    return before.to(like.device), after.to(like.device), share.to(like)
