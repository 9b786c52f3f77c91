"""NPZ files of positions: clips behind one another, of any skeleton with known names, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from motion.archive import open_archive
from motion.bvh import from_poses
from motion.files import read
from motion.retarget import retarget
from motion.skeleton import HUMAN
from tests.motion.test_retarget import MIXAMO, renamed
from tests.support.poses import wander


def arrays() -> dict[str, Any]:
    """Two clips of 12 and 20 frames of a Mixamo skeleton, in centimetres."""
    poses = [100 * wander(count, seed) for seed, count in enumerate((12, 20))]
    return {
        "positions": torch.cat(poses).float().numpy(),
        "lengths": np.array([12, 20]),
        "fps": np.float32(30),
        "joint_names": np.array(renamed(from_poses(wander(2), 20.0), MIXAMO, "Left", "Right").names),
        "parents": np.array(HUMAN.parents),
        "names": np.array(["walk_01", "run_01"]),
        "content": np.array([1, 0]),
        "class_names": np.array(["runs", "walks"]),
        "captions": np.array(["someone walks", ""]),
        "split": np.array(["train", "val"]),
    }


def test_clips_come_with_names_classes_captions_and_splits(tmp_path: Path) -> None:
    np.savez(tmp_path / "many.npz", **arrays())
    archive = open_archive(tmp_path / "many.npz")
    assert len(archive) == 2 and archive.clip_names() == ["walk_01", "run_01"]
    assert archive.texts("labels", "content") == ["walks", "runs"] and archive.tests() == [False, True]
    takes = [archive.take(clip) for clip in range(2)]
    assert [(len(take.joints), take.fps, take.caption) for take in takes] == [
        (12, 30.0, "someone walks"),
        (20, 30.0, ""),
    ]
    for seed, take in enumerate(takes):
        assert float((take.joints - wander(len(take.joints), seed)).abs().max()) < 1e-4
    assert archive.digest(0) != archive.digest(1)
    with pytest.raises(ValueError, match="2 clips"):
        read(tmp_path / "many.npz")


def test_missing_toes_are_put_before_the_ankles_and_rest_with_them(tmp_path: Path) -> None:
    """A body that stands and turns its trunk: toes stay, about where this body has them, and level with the floor."""
    full = arrays()
    keep = [joint for joint, name in enumerate(HUMAN.names) if not name.endswith("_foot")]
    standing = wander(2, turn=0.0)[:1].repeat(30, 1, 1)
    np.savez(
        tmp_path / "a.npz",
        positions=standing[:, keep].numpy(),
        fps=20,
        joint_names=full["joint_names"][keep],
        parents=np.array([-1 if HUMAN.parents[joint] < 0 else keep.index(HUMAN.parents[joint]) for joint in keep]),
    )
    found = read(tmp_path / "a.npz").joints
    assert float((found[:, keep] - standing[:, keep]).abs().max()) < 1e-4
    toes, ankles = found[:, [10, 11]], found[:, [7, 8]]
    assert float(toes.std(0).max()) < 1e-5
    assert float((toes - ankles)[..., 1].max()) < -0.03 and float((toes - ankles)[..., 2].min()) > 0.08


def test_without_names_there_are_22_joints_in_metres(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", positions=torch.stack([wander(10, 1), wander(10, 2)]).numpy(), lengths=[10, 7], fps=20)
    archive = open_archive(tmp_path / "a.npz")
    assert len(archive.take(1).joints) == 7 and archive.clip_names() == ["0000", "0001"]
    torch.testing.assert_close(archive.take(0).joints, wander(10, 1).float())


def test_the_reader_agrees_with_a_bvh_of_the_same_motion(tmp_path: Path) -> None:
    bvh = renamed(from_poses(wander(12, 0), 30.0), MIXAMO, "Left", "Right")
    np.savez(tmp_path / "many.npz", **arrays())
    away = open_archive(tmp_path / "many.npz").take(0).joints - retarget(bvh)
    assert float(away.abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positions": np.zeros((3, 4))}, "positions are"),
        ({"fps": np.float32(0)}, "frame rate"),
        ({"lengths": np.array([12, 21])}, "more frames"),
        ({"joint_names": np.array(["a", "b"])}, "names 2 joints"),
        ({"captions": np.array(["only one"])}, "1 rows for 2 clips"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, change: Mapping[str, Any], words: str) -> None:
    np.savez(tmp_path / "a.npz", **(arrays() | dict(change)))
    with pytest.raises(ValueError, match=words):
        open_archive(tmp_path / "a.npz").take(0)
