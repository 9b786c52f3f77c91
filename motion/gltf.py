"""GLB files: a skeleton as a tree of moving nodes with a little body on each bone, for 3-D programs.

Every joint is a node under its parent's, with a rotation for each frame; the root also has a translation. The joints
are listed as a skin, by which programs know a skeleton. Written through trimesh, which adds what it does not know
itself (the animation) from functions given to it.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motion.features import check
from motion.kinematics import rotations
from motion.rotation import matrix_to_quaternion
from motion.skeleton import HUMAN, Skeleton

FLOAT = 5126  # glTF's number for 32-bit floats


def write_glb(path: Path, joints: Tensor, fps: float, skeleton: Skeleton = HUMAN) -> None:
    """Write poses (T, J, 3) in metres. Raises ValueError for poses that are none, or without the trimesh package."""
    check(joints, skeleton)
    try:
        import trimesh
    except ImportError as error:
        raise ValueError("GLB files need the trimesh package: install langevin[motion]") from error
    joints = joints.double()
    rest = skeleton.offsets(torch.float64)
    lengths = skeleton.lengths(joints).mean(0)
    offsets = torch.cat([rest[:1], rest[1:] / rest[1:].norm(dim=-1, keepdim=True) * lengths[:, None]])
    local = rotations(joints, offsets, skeleton.parents)
    turns = matrix_to_quaternion(local)[..., [1, 2, 3, 0]]  # glTF writes x, y, z, w
    scene = trimesh.Scene()
    for joint, name in enumerate(skeleton.names):
        at = np.eye(4)
        at[:3, :3] = local[0, joint].numpy()
        at[:3, 3] = (offsets[joint] if joint else joints[0, 0]).numpy()
        above = skeleton.names[skeleton.parents[joint]] if joint else scene.graph.base_frame
        scene.graph.update(frame_to=name, frame_from=above, matrix=at)
        tips = [offsets[child].numpy() for child in skeleton.children(joint)] or [np.array([0.0, 0.0, 0.03])]
        body = trimesh.util.concatenate([trimesh.Trimesh(*_bone(tip)) for tip in tips])
        scene.add_geometry(body, node_name=f"{name}_bone", geom_name=f"{name}_bone", parent_node_name=name)

    def animate(buffers: MutableMapping[Any, bytes], tree: dict[str, Any]) -> None:
        _animate(buffers, tree, joints[:, 0].numpy(), turns.numpy(), fps, skeleton)

    path.write_bytes(trimesh.exchange.gltf.export_glb(scene, buffer_postprocessor=animate))


def _bone(tip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (6, 3) and triangles (8, 3) of a long octahedron from the origin to a point."""
    length = float(np.linalg.norm(tip))
    along = tip / length
    side = np.cross(along, np.eye(3)[np.abs(along).argmin()])
    side /= np.linalg.norm(side)
    other = np.cross(along, side)
    width = max(0.1 * length, 0.01)
    ring = [0.2 * tip + width * (c * side + s * other) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    corners = np.array([np.zeros(3), *ring, tip])
    around = [(1, 2), (2, 3), (3, 4), (4, 1)]
    return corners, np.array([(0, b, a) for a, b in around] + [(5, a, b) for a, b in around])


def _animate(
    buffers: MutableMapping[Any, bytes],
    tree: dict[str, Any],
    root: np.ndarray,
    turns: np.ndarray,
    fps: float,
    skeleton: Skeleton,
) -> None:
    """Add the animation of root (T, 3) and rotations (T, J, 4), and the skin, to a glTF tree and its buffers."""

    def accessor(name: str, values: np.ndarray) -> int:
        values = np.ascontiguousarray(values, dtype="<f4")
        buffers[f"motion/{name}"] = values.tobytes()
        rows = values.reshape(len(values), -1)
        tree["accessors"][f"motion/{name}"] = {
            "bufferView": len(buffers) - 1,
            "componentType": FLOAT,
            "count": len(values),
            "type": "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}",
            "min": rows.min(0).tolist(),
            "max": rows.max(0).tolist(),
        }
        return len(tree["accessors"]) - 1

    places = {node["name"]: number for number, node in enumerate(tree["nodes"])}
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []
    clock = accessor("time", np.arange(len(root)) / fps)

    def move(joint: int, kind: str, values: np.ndarray) -> None:
        node = tree["nodes"][places[skeleton.names[joint]]]
        node[kind] = [float(value) for value in values[0]]
        samplers.append({"input": clock, "output": accessor(f"{joint}/{kind}", values), "interpolation": "LINEAR"})
        target = {"node": places[skeleton.names[joint]], "path": kind}
        channels.append({"sampler": len(samplers) - 1, "target": target})

    for joint, name in enumerate(skeleton.names):
        # A node that moves is written as translation and rotation, never as a matrix.
        node = tree["nodes"][places[name]]
        matrix = node.pop("matrix", np.eye(4).T.ravel().tolist())
        node["translation"] = [float(value) for value in matrix[12:15]]
        move(joint, "rotation", turns[:, joint])
    move(0, "translation", root)
    tree["animations"] = [{"name": "motion", "samplers": samplers, "channels": channels}]
    tree["skins"] = [{"joints": [places[name] for name in skeleton.names], "skeleton": places[skeleton.names[0]]}]
