"""BVH: any tree comes back exactly, stands where closed forms say, and broken files are refused with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from motion.bvh import BvhError, from_poses, write_bvh
from motion.bvh_reader import read_bvh
from motion.skeleton import HUMAN
from tests.support.poses import wander

ARM = """HIERARCHY
ROOT Hips
{
  OFFSET 1.0 2.0 3.0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
  JOINT Upper Arm
  {
    OFFSET 0 10 0
    CHANNELS 1 Zrotation
    JOINT Lower
    {
      OFFSET 5 0 0
      CHANNELS 5 Yrotation Xposition Zposition Yposition Xrotation
      End Site
      {
        OFFSET 0 0 2
      }
    }
  }
  JOINT Fixed
  {
    OFFSET 0 -1 0
    CHANNELS 0
  }
}
MOTION
Frames: 2
Frame Time: 0.05
0 0 0 0 0 0 0 0 5 0 0 0
1 2 3 0 90 0 90 90 6 0 0 0
"""


def saved(folder: Path, text: str) -> Path:
    path = folder / "arm.bvh"
    path.write_text(text)
    return path


def test_any_order_and_number_of_channels_moves_the_joints_as_it_says(tmp_path: Path) -> None:
    bvh = read_bvh(saved(tmp_path, ARM))
    assert bvh.names == ("Hips", "Upper Arm", "Lower", "Fixed")
    assert bvh.parents == (-1, 0, 1, 0)
    assert bvh.fps == pytest.approx(20)
    at = bvh.joints()
    assert at["Lower"][0].tolist() == pytest.approx([5, 10, 0])
    assert at["Lower.end"][0].tolist() == pytest.approx([5, 10, 2])
    # Frame 2: the root turns x to -z; the arm turns x to y; the position channels put the joint 6 along the arm's x.
    assert at["Hips"][1].tolist() == pytest.approx([1, 2, 3])
    assert at["Upper Arm"][1].tolist() == pytest.approx([1, 12, 3])
    assert at["Lower"][1].tolist() == pytest.approx([1, 18, 3])
    assert at["Lower.end"][1].tolist() == pytest.approx([1, 20, 3])
    assert at["Fixed"][1].tolist() == pytest.approx([1, 1, 3])


def test_read_write_read_is_exact(tmp_path: Path) -> None:
    first = read_bvh(
        saved(tmp_path, ARM.replace("0 90 0 90 90 6", "-179.123456789 1e-7 0.333333333 12.5 -77.7777777 6"))
    )
    write_bvh(tmp_path / "again.bvh", first)
    second = read_bvh(tmp_path / "again.bvh")
    assert (second.values - first.values).abs().max() < 1e-6
    assert second.names == first.names and second.channels == first.channels and second.ends == first.ends
    assert torch.equal(second.offsets, first.offsets)
    assert second.frame_time == first.frame_time


def test_poses_become_a_file_and_come_back(tmp_path: Path) -> None:
    poses = wander(25, turn=7.0)
    write_bvh(tmp_path / "walk.bvh", from_poses(poses, 20.0))
    at = read_bvh(tmp_path / "walk.bvh").joints()
    for joint, name in enumerate(HUMAN.names):
        assert float((at[name] / 100 - poses[:, joint]).abs().max()) < 1e-8, name
    headings = from_poses(poses, 20.0).values[:, 3]
    assert float(headings.diff().abs().max()) < 40  # a heading that turns by 7 radians is written without jumps


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("HIERARCHY", "NOTHING", "line 1: 'NOTHING' stands where HIERARCHY"),
        ("OFFSET 5 0 0", "OFFSET 5 x 0", "line 12: 'x' stands where an offset"),
        ("CHANNELS 1 Zrotation", "CHANNELS 1 Zroll", "line 9: 'Zroll' is no channel"),
        ("CHANNELS 1 Zrotation", "CHANNELS 2 Zrotation Zrotation", "line 9: a joint has the same channel twice"),
        ("Frames: 2", "Frames: 0", "line 27: the file announces 0 frames"),
        ("Frames: 2", "Frames: 3", "line 30: the file ends after 2 of 3 frames"),
        ("Frames: 2", "Frames: 1", "line 30: there are more than the 1 frames"),
        ("Frame Time: 0.05", "Frame Time: 0", "line 28: the time of a frame must be positive"),
        ("1 2 3 0 90", "1 2 3 nan 90", "line 30: channel 4 is not a finite number"),
        ("1 2 3 0 90", "1 2 3 zero 90", "line 30: 'zero' stands where a number"),
        ("1 2 3 0 90", "1 2 3 90", "line 30: the frame has 11 numbers, but the joints have 12"),
        ("MOTION", "ROOT Second", "line 26: a second ROOT"),
        ("MOTION\n", "", "line 26: 'Frames:' stands where MOTION"),
        ("  JOINT Fixed", "  BONE Fixed", "line 20: 'BONE' stands where"),
    ],
)
def test_broken_files_are_refused_with_their_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert ARM.count(old) >= 1
    with pytest.raises(BvhError) as caught:
        read_bvh(saved(tmp_path, ARM.replace(old, new, 1)))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_stop_short_say_so(tmp_path: Path) -> None:
    for end in (0, 15, 60, 200, 420):
        with pytest.raises(BvhError, match="line"):
            read_bvh(saved(tmp_path, ARM[:end]))
    with pytest.raises(BvhError, match="cannot be read"):
        read_bvh(tmp_path / "missing.bvh")
