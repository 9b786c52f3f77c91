"""Files of motions: NPZ, BVH and GLB hold what was written."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from motion.features import canonical, encode
from motion.files import Take, read, write
from motion.kinematics import forward
from motion.rotation import quaternion_to_matrix
from motion.skeleton import HUMAN
from tests.support.poses import wander


@pytest.fixture(scope="module")
def take() -> Take:
    return Take(canonical(wander(24, turn=2.0)).float(), 20.0, "a person wanders")


def test_npz_and_bvh_come_back(tmp_path: Path, take: Take) -> None:
    write(tmp_path / "a.npz", take)
    again = read(tmp_path / "a.npz")
    assert torch.equal(again.joints, take.joints) and (again.fps, again.caption) == (20.0, take.caption)
    write(tmp_path / "a.bvh", take)
    assert float((read(tmp_path / "a.bvh").joints - take.joints).abs().max()) < 1e-5


def test_npy_holds_poses_or_features(tmp_path: Path, take: Take) -> None:
    np.save(tmp_path / "poses.npy", take.joints.numpy())
    np.save(tmp_path / "features.npy", encode(take.joints).numpy())
    assert torch.equal(read(tmp_path / "poses.npy").joints, take.joints)
    assert float((read(tmp_path / "features.npy").joints - take.joints[:-1]).abs().max()) < 1e-5


def test_glb_opens_with_joints_in_place_and_moves_as_the_poses_do(tmp_path: Path, take: Take) -> None:
    write(tmp_path / "a.glb", take)
    scene = trimesh.load_scene(tmp_path / "a.glb")
    for joint, name in enumerate(HUMAN.names):
        matrix, _ = scene.graph[name]
        assert matrix[:3, 3] == pytest.approx(take.joints[0, joint].numpy(), abs=1e-5), name
    assert len(scene.geometry) == 22
    assert scene.extents[1] == pytest.approx(float(np.ptp(take.joints[0, :, 1].numpy())), abs=0.1)
    tree, arrays = opened(tmp_path / "a.glb")
    root, turns = torch.zeros(24, 3), torch.zeros(24, 22, 4)
    for channel in tree["animations"][0]["channels"]:
        values = torch.tensor(arrays(tree["animations"][0]["samplers"][channel["sampler"]]["output"]))
        name = tree["nodes"][channel["target"]["node"]]["name"]
        if channel["target"]["path"] == "translation":
            root = values
        else:
            turns[:, HUMAN.names.index(name)] = values[:, [3, 0, 1, 2]]
    offsets = torch.tensor([node_of(tree, name)["translation"] for name in HUMAN.names])
    joints, _ = forward(quaternion_to_matrix(turns), offsets, root, HUMAN.parents)
    assert float((joints - take.joints).abs().max()) < 1e-4
    clock = arrays(tree["animations"][0]["samplers"][0]["input"])
    assert clock == pytest.approx(np.arange(24) / 20)
    assert len(tree["skins"][0]["joints"]) == 22


def node_of(tree: dict[str, Any], name: str) -> dict[str, Any]:
    return next(node for node in tree["nodes"] if node.get("name") == name)


def opened(path: Path) -> tuple[dict[str, Any], Callable[[int], np.ndarray]]:
    """The JSON of a GLB, and a function that reads its accessors of floats."""
    data = path.read_bytes()
    size = struct.unpack("<I", data[12:16])[0]
    tree = json.loads(data[20 : 20 + size])
    binary = data[28 + size :]

    def array(index: int) -> np.ndarray:
        accessor = tree["accessors"][index]
        view = tree["bufferViews"][accessor["bufferView"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        start = view.get("byteOffset", 0)
        flat = np.frombuffer(binary[start : start + 4 * width * accessor["count"]], "<f4")
        return flat.reshape(-1, width) if width > 1 else flat

    return tree, array


def test_what_is_no_motion_is_refused(tmp_path: Path, take: Take) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    for name in ("bad.npz", "bad.npy", "missing.npy", "motion.txt"):
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)
    with pytest.raises(ValueError, match=r"\.bvh, \.npz or \.glb"):
        write(tmp_path / "a.fbx", take)
    with pytest.raises(ValueError, match="NaN"):
        Take(torch.full((4, 22, 3), float("nan")))
    with pytest.raises(ValueError, match="1 frames"):
        Take(take.joints[:1])
