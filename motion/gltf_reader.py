"""Reading GLB files: the first animation of a skeleton, as positions of its joints.

Any tree of nodes with translations, rotations, scales or matrices; keys that are linear, stepped or cubic (of which the
keys count, joined by straight lines and shortest arcs), at the rate of the densest channel. Meshes are not read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from motion.retarget import Performance
from motion.rotation import quaternion_to_matrix, slerp

Array = NDArray[np.float64]
TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
BASE = {"translation": (0.0, 0.0, 0.0), "rotation": (0.0, 0.0, 0.0, 1.0), "scale": (1.0, 1.0, 1.0)}
SLOWEST, FASTEST = 1.0, 480.0  # frames a second


class GlbError(ValueError):
    """A file that is no GLB with a motion; the message says why."""


def read_glb(path: Path) -> Performance:
    """The first animation of a file. Raises GlbError, in one sentence, for whatever holds none."""
    try:
        tree, binary = _chunks(path.read_bytes())
        return _Scene(tree, binary).performance()
    except GlbError as error:
        raise GlbError(f"{path.name}: {error}") from error
    except OSError as error:
        raise GlbError(f"{path} cannot be read: check the path") from error
    except (KeyError, IndexError, TypeError, ValueError, struct.error, RecursionError) as error:
        raise GlbError(f"{path.name} is no whole GLB file: export it again") from error


def _chunks(data: bytes) -> tuple[Any, bytes]:
    """The JSON and the binary part."""
    if data[:4] != b"glTF":
        raise GlbError("it is no GLB file: export it again as binary glTF")
    size = struct.unpack("<I", data[12:16])[0]
    if struct.unpack("<I", data[8:12])[0] > len(data):
        raise GlbError("the file is cut off: copy it again")
    return json.loads(data[20 : 20 + size]), data[28 + size :]


class _Scene:
    """The nodes of a file, and what its first animation does to them."""

    def __init__(self, tree: Any, binary: bytes) -> None:
        self.tree, self.binary = tree, binary
        self.nodes: list[Mapping[str, Any]] = tree.get("nodes", [])
        self.parents = [-1] * len(self.nodes)
        for number, node in enumerate(self.nodes):
            for child in node.get("children", []):
                self.parents[child] = number
        if not tree.get("animations"):
            raise GlbError("it holds no animation: export it with one")
        self.channels: dict[tuple[int, str], tuple[Array, Array]] = {}  # node, kind -> times (K,), values (K, C)
        for channel in tree["animations"][0]["channels"]:
            kind, node = channel["target"]["path"], channel["target"].get("node")
            if node is not None and kind in BASE:
                sampler = tree["animations"][0]["samplers"][channel["sampler"]]
                times, values = self.array(sampler["input"])[:, 0], self.array(sampler["output"])
                if len(values) == 3 * len(times):  # cubic: tangents stand before and after each value
                    values = values[1::3]
                self.channels[node, kind] = (times, values)
        if not self.channels:
            raise GlbError("its animation moves no joint: export the skeleton's motion")

    def array(self, index: int) -> Array:
        """An accessor (N, C); whole numbers count as shares of their largest, as glTF normalises them."""
        accessor = self.tree["accessors"][index]
        view = self.tree["bufferViews"][accessor["bufferView"]]
        if "sparse" in accessor or self.tree["buffers"][view["buffer"]].get("uri"):
            raise GlbError("its numbers are sparse or in another file: export it as one plain GLB")
        kind, width = np.dtype(TYPES[accessor["componentType"]]), WIDTHS[accessor["type"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        stride = view.get("byteStride", kind.itemsize * width)
        rows = np.ndarray((accessor["count"], width), kind, self.binary, start, (stride, kind.itemsize))
        found = rows.astype(np.float64)
        if np.issubdtype(kind, np.integer):
            found = np.maximum(found / np.iinfo(kind).max, -1.0)
        if not np.isfinite(found).all():
            raise GlbError("it contains NaN or infinity: repair or cut those frames")
        return found

    def clock(self) -> tuple[Array, float]:
        """The times of the frames, and how many there are a second."""
        densest = max((times for times, _ in self.channels.values()), key=len)
        first = min(float(times[0]) for times, _ in self.channels.values())
        last = max(float(times[-1]) for times, _ in self.channels.values())
        if len(densest) < 2 or last <= first:
            raise GlbError("its animation has a single frame: a motion needs two or more")
        fps = min(max(1 / float(np.median(np.diff(densest))), SLOWEST), FASTEST)
        return first + np.arange(int((last - first) * fps + 1e-3) + 1) / fps, fps

    def local(self, node: int, clock: Array | None) -> Tensor:
        """The matrices of a node (T, 4, 4), at rest (1, 4, 4) without a clock."""
        frames = 1 if clock is None else len(clock)
        moving = clock is not None and any((node, kind) in self.channels for kind in BASE)
        if "matrix" in self.nodes[node] and not moving:
            whole = torch.tensor(self.nodes[node]["matrix"], dtype=torch.float64).view(4, 4).T
            return whole.expand(frames, 4, 4)
        found = {
            kind: torch.tensor(self.nodes[node].get(kind, base), dtype=torch.float64).expand(frames, -1)
            for kind, base in BASE.items()
        }
        if clock is not None:
            found |= {kind: self.moved(node, kind, clock) for kind in BASE if (node, kind) in self.channels}
        q = found["rotation"][:, [3, 0, 1, 2]]
        turned = quaternion_to_matrix(q / q.norm(dim=-1, keepdim=True).clamp_min(1e-12))
        whole = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
        whole[:, :3, :3] = turned * found["scale"][:, None]
        whole[:, :3, 3] = found["translation"]
        return whole

    def moved(self, node: int, kind: str, clock: Array) -> Tensor:
        """The values of a channel at the frames (T, C)."""
        times, values = self.channels[node, kind]
        after = np.clip(np.searchsorted(times, clock + 1e-6, side="right"), 1, max(len(times) - 1, 1))
        before = after - 1
        after = np.minimum(after, len(times) - 1)
        span = np.maximum(times[after] - times[before], 1e-12)
        share = torch.from_numpy(np.clip((clock - times[before]) / span, 0, 1))
        low, high = (torch.from_numpy(values[rows]) for rows in (before, after))
        if values.shape[1] == 4:
            low, high = (end[:, [3, 0, 1, 2]] / end.norm(dim=-1, keepdim=True) for end in (low, high))
            return slerp(low, high, share)[:, [1, 2, 3, 0]]
        return low + (high - low) * share[:, None]

    def places(self, clock: Array | None) -> list[Tensor]:
        """Where the nodes are in the world, (T, 3) each."""
        world: dict[int, Tensor] = {}

        def matrix(node: int) -> Tensor:
            if node not in world:
                above = self.parents[node]
                own = self.local(node, clock)
                world[node] = own if above < 0 else matrix(above) @ own
            return world[node]

        return [matrix(node)[:, :3, 3] for node in range(len(self.nodes))]

    def performance(self) -> Performance:
        clock, fps = self.clock()
        joints = sorted({joint for skin in self.tree.get("skins", [])[:1] for joint in skin["joints"]})
        joints = joints or list(range(len(self.nodes)))

        def above(node: int) -> int:
            """The place of the nearest joint above a node, -1 for none."""
            while (node := self.parents[node]) >= 0:
                if node in joints:
                    return joints.index(node)
            return -1

        names = tuple(str(self.nodes[joint].get("name", f"node {joint}")) for joint in joints)
        moved, rest = self.places(clock), self.places(None)
        return Performance(
            names,
            tuple(above(joint) for joint in joints),
            {name: moved[joint].expand(len(clock), 3) for name, joint in zip(names, joints)},
            {name: rest[joint] for name, joint in zip(names, joints)},
            fps,
        )
