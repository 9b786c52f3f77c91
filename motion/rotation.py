"""Rotations in four spellings: matrices (..., 3, 3), quaternions (w, x, y, z), 6-D and Euler angles of any order.

A rotation takes column vectors, v' = R v. The 6-D spelling is the first two columns of R (1812.07035), which a network
can output without jumps. Euler angles compose as they are read, R = R_first R_second R_third, the way BVH lists them.
"""

from __future__ import annotations

import torch
from torch import Tensor

AXES = "XYZ"


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The quaternion (..., 4) of the rotation b followed by a."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def inverse(q: Tensor) -> Tensor:
    """The inverse of unit quaternions (..., 4)."""
    return q * q.new_tensor([1.0, -1.0, -1.0, -1.0])


def rotate(q: Tensor, v: Tensor) -> Tensor:
    """Vectors (..., 3) turned by unit quaternions (..., 4): v + 2 w (u x v) + 2 u x (u x v)."""
    u, v = torch.broadcast_tensors(q[..., 1:], v)
    cross = torch.linalg.cross(u, v)
    return v + 2 * (q[..., :1] * cross + torch.linalg.cross(u, cross))


def about_y(angle: Tensor) -> Tensor:
    """The quaternions (..., 4) of turns about the vertical by angles (...) in radians."""
    zero = torch.zeros_like(angle)
    return torch.stack([(angle / 2).cos(), zero, (angle / 2).sin(), zero], dim=-1)


def between(u: Tensor, v: Tensor) -> Tensor:
    """The shortest rotation (..., 4) that takes the direction u (..., 3) to v; vectors of length 0 turn nothing."""
    u, v = _unit(u), _unit(v)
    u, v = torch.broadcast_tensors(u, v)
    cos = (u * v).sum(-1, keepdim=True)
    q = torch.cat([1 + cos, torch.linalg.cross(u, v)], dim=-1)
    # Opposite directions leave the axis open: take one at right angles to u.
    least = torch.nn.functional.one_hot(u.abs().argmin(-1), 3).to(u)
    half_turn = torch.cat([torch.zeros_like(cos), torch.linalg.cross(u, least)], dim=-1)
    return _unit(torch.where(1 + cos < 1e-6 if u.dtype == torch.float32 else 1 + cos < 1e-12, half_turn, q))


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)


def quaternion_to_matrix(q: Tensor) -> Tensor:
    """Unit quaternions (..., 4) -> matrices (..., 3, 3)."""
    w, x, y, z = q.unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quaternion(m: Tensor) -> Tensor:
    """Matrices (..., 3, 3) -> quaternions (..., 4) with w >= 0, accurate for every angle.

    Each component's column of 4 q q^T follows from the matrix; the column of the largest component is divided out.
    """
    d = torch.diagonal(m, dim1=-2, dim2=-1)
    xx, yy, zz = d.unbind(-1)
    skew = (m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1])
    xy, xz, yz = (m[..., i, j] + m[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    outer = torch.stack(
        [
            *(1 + xx + yy + zz, *skew),
            *(skew[0], 1 + xx - yy - zz, xy, xz),
            *(skew[1], xy, 1 - xx + yy - zz, yz),
            *(skew[2], xz, yz, 1 - xx - yy + zz),
        ],
        dim=-1,
    ).unflatten(-1, (4, 4))
    best = torch.diagonal(outer, dim1=-2, dim2=-1).argmax(-1)
    q = _unit(outer.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2))
    return torch.where(q[..., :1] < 0, -q, q)


def matrix_to_six(m: Tensor) -> Tensor:
    """Matrices (..., 3, 3) -> (..., 6), the first two columns one after the other."""
    return torch.cat([m[..., 0], m[..., 1]], dim=-1)


def six_to_matrix(six: Tensor) -> Tensor:
    """Any (..., 6) -> the matrices (..., 3, 3) that Gram and Schmidt make of it (1812.07035, section B)."""
    x = _unit(six[..., :3])
    z = _unit(torch.linalg.cross(x, six[..., 3:]))
    return torch.stack([x, torch.linalg.cross(z, x), z], dim=-1)


def euler_to_matrix(angles: Tensor, order: str) -> Tensor:
    """Angles (..., n) in radians about the axes that ``order`` names, such as "ZXY" -> matrices (..., 3, 3)."""
    turned = torch.eye(3, dtype=angles.dtype, device=angles.device).expand(*angles.shape[:-1], 3, 3)
    for axis, angle in zip(_axes(order), angles.unbind(-1), strict=True):
        turned = turned @ _about(axis, angle)
    return turned


def _about(axis: int, angle: Tensor) -> Tensor:
    """The turn about one axis."""
    j, k = (axis + 1) % 3, (axis + 2) % 3
    m = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(*angle.shape, 1, 1)
    m[..., j, j] = m[..., k, k] = angle.cos()
    m[..., k, j] = angle.sin()
    m[..., j, k] = -angle.sin()
    return m


def matrix_to_euler(m: Tensor, order: str) -> Tensor:
    """Matrices (..., 3, 3) -> angles (..., 3) in radians for any of the 12 orders, such as "ZXY" or "ZXZ".

    Where two axes fall together only their sum is determined: the last angle is then 0. Raises ValueError for an order
    that cannot express every rotation.
    """
    axes = _axes(order)
    if len(axes) != 3 or axes[0] == axes[1] or axes[1] == axes[2]:
        raise ValueError(f"the order '{order}' cannot express every rotation: name three axes, no two neighbours equal")
    i, j = axes[0], axes[1]
    k = 3 - i - j
    even = 1.0 if (j - i) % 3 == 1 else -1.0
    if axes[2] == k:
        middle = torch.atan2(even * m[..., i, k], torch.hypot(m[..., i, i], m[..., i, j]))
        first = torch.atan2(-even * m[..., j, k], m[..., k, k])
        last = torch.atan2(-even * m[..., i, j], m[..., i, i])
        locked = torch.hypot(m[..., i, i], m[..., i, j])
    else:
        middle = torch.atan2(torch.hypot(m[..., j, i], m[..., k, i]), m[..., i, i])
        first = torch.atan2(m[..., j, i], -even * m[..., k, i])
        last = torch.atan2(m[..., i, j], even * m[..., i, k])
        locked = torch.hypot(m[..., j, i], m[..., k, i])
    lost = locked < (1e-6 if m.dtype == torch.float64 else 1e-3)
    first = torch.where(lost, torch.atan2(even * m[..., k, j], m[..., j, j]), first)
    last = torch.where(lost, torch.zeros_like(last), last)
    return torch.stack([first, middle, last], dim=-1)


def _axes(order: str) -> list[int]:
    if not order or any(letter not in AXES for letter in order.upper()):
        raise ValueError(f"'{order}' is no order of rotations: name axes such as ZXY")
    return [AXES.index(letter) for letter in order.upper()]


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """The rotation a share (...) in [0, 1] of the shorter arc from quaternion a (..., 4) to b."""
    dot = (a * b).sum(-1, keepdim=True)
    b = torch.where(dot < 0, -b, b)
    angle = dot.abs().clamp(max=1).acos()
    sine = angle.sin()
    share = share[..., None]
    near = sine < 1e-6
    safe = torch.where(near, torch.ones_like(sine), sine)
    left = torch.where(near, 1 - share, ((1 - share) * angle).sin() / safe)
    right = torch.where(near, share.expand_as(sine), (share * angle).sin() / safe)
    return _unit(left * a + right * b)
