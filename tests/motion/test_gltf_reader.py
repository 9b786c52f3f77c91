"""GLB files are read back, with scaled parents, other clocks and keys, and refused where they hold no motion."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from motion.features import canonical
from motion.files import Take, read, write
from motion.gltf_reader import read_glb
from tests.support.poses import wander


@pytest.fixture(scope="module")
def take() -> Take:
    return Take(canonical(wander(24, turn=2.0)).float(), 20.0)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON of a GLB."""
    data = path.read_bytes()
    size = struct.unpack("<I", data[12:16])[0]
    tree = json.loads(data[20 : 20 + size])
    change(tree)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    binary = data[20 + size :]
    head = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(binary))
    path.write_bytes(head + struct.pack("<I4s", len(text), b"JSON") + text + binary)


def test_what_was_written_comes_back(tmp_path: Path, take: Take) -> None:
    write(tmp_path / "a.glb", take)
    again = read(tmp_path / "a.glb")
    assert again.fps == pytest.approx(20.0, rel=1e-4) and again.joints.shape == take.joints.shape
    # Legs are scaled to those of the reference body, which these are but for rounding.
    assert float((again.joints - take.joints).abs().max()) < 1e-3


def test_a_scaled_and_turned_parent_counts(tmp_path: Path, take: Take) -> None:
    """An armature as exporters write it: scaled to a hundredth, and turned about the vertical by a quarter."""
    write(tmp_path / "a.glb", take)

    def armature(tree: dict[str, Any]) -> None:
        nodes = tree["nodes"]
        root = next(number for number, node in enumerate(nodes) if node["name"] == "pelvis")
        half = 0.5**0.5
        nodes.append({"name": "Armature", "children": [root], "scale": [0.01] * 3, "rotation": [0, half, 0, half]})
        for node in nodes[:-1]:
            if root in node.get("children", []):
                node["children"] = [len(nodes) - 1 if child == root else child for child in node["children"]]

    rewritten(tmp_path / "a.glb", armature)
    found = read_glb(tmp_path / "a.glb")
    turned = take.joints[..., [2, 1, 0]] * torch.tensor([0.01, 0.01, -0.01])
    assert float((found.joints["left_wrist"] - turned[:, 20]).abs().max()) < 1e-5
    assert found.parents[found.names.index("head")] == found.names.index("neck")


def test_steps_and_what_is_no_motion(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "a.glb"
    for change, words in (
        (lambda tree: tree.pop("animations"), "no animation"),
        (lambda tree: tree["animations"][0].update(channels=[]), "moves no joint"),
        (lambda tree: tree["buffers"][0].update(uri="a.bin"), "another file"),
        (lambda tree: tree["accessors"].clear(), "no whole GLB"),
    ):
        write(path, take)
        rewritten(path, change)
        with pytest.raises(ValueError, match=words):
            read(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cut off"):
        read(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no GLB"):
        read(path)
