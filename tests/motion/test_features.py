"""Features: they return what was put in, and the format's traps are real."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from motion.features import Groups, Normal, canonical, decode, decode_root, decode_rotations, encode, faced, heading
from motion.kinematics import forward, resample, resample_rotations, rotations
from motion.rotation import about_y, euler_to_matrix, quaternion_to_matrix, rotate
from motion.skeleton import HUMAN, KIT, Skeleton
from tests.support.poses import wander


@pytest.mark.parametrize(("skeleton", "size"), [(HUMAN, 263), (KIT, 251)])
@pytest.mark.parametrize("turn", [0.0, 4.0, -9.0])
def test_decode_returns_what_was_encoded(skeleton: Skeleton, size: int, turn: float) -> None:
    poses = canonical(wander(80, turn=turn, skeleton=skeleton), skeleton).float()
    features = encode(poses, skeleton)
    assert features.shape == (79, size)
    assert float((decode(features, skeleton) - poses[:-1]).abs().max()) < 1e-5
    lengths = skeleton.lengths(poses)[0]
    assert float((decode_rotations(features, lengths, skeleton) - poses[:-1]).abs().max()) < 2e-5


def test_batches_of_clips_are_described_as_one_by_one() -> None:
    clips = torch.stack([canonical(wander(50, seed)) for seed in range(3)])
    together = encode(clips)
    for clip, row in zip(clips, together, strict=True):
        assert torch.allclose(encode(clip), row, atol=1e-12)
    assert torch.allclose(decode(together), clips[:, :-1], atol=1e-9)


def test_features_do_not_depend_on_place_and_little_on_heading() -> None:
    poses = wander(60)
    turned = rotate(about_y(torch.tensor(1.0, dtype=torch.float64)), poses) + torch.tensor([3.0, 0, -2]).double()
    same = torch.ones(263, dtype=torch.bool)
    same[Groups(22).slices()[4]] = False  # the published rotations of bones are measured from fixed directions
    assert torch.allclose(encode(poses)[:, same], encode(turned)[:, same], atol=1e-9)
    assert torch.allclose(canonical(poses), canonical(turned), atol=1e-9)


def test_canonical_clips_start_at_the_origin_on_the_floor_facing_z() -> None:
    poses = canonical(wander(60, turn=3.0) + 5)
    assert poses[0, 0, [0, 2]].abs().max() < 1e-12
    assert float(poses[..., 1].min()) == pytest.approx(0)
    assert float(heading(poses)[0]) == pytest.approx(0, abs=1e-9)


def test_faced_clips_begin_with_a_pose_that_faces_z() -> None:
    poses = canonical(wander(30, turn=5.0))
    turned = faced(poses)
    assert abs(float(heading(poses[:1], smooth=0)[0])) > 0.1
    assert float(heading(turned[:1], smooth=0)[0]) == pytest.approx(0, abs=1e-9)
    assert torch.allclose(canonical(turned), poses, atol=1e-9)


def spinning(rate: float, frames: int = 400) -> torch.Tensor:
    """A stiff body that turns by ``rate`` radians a frame on the spot."""
    local = torch.eye(3, dtype=torch.float64).expand(frames, 22, 3, 3).clone()
    local[:, 0] = quaternion_to_matrix(about_y(rate * torch.arange(frames, dtype=torch.float64)))
    root = torch.tensor([0.0, 1, 0], dtype=torch.float64).expand(frames, 3)
    return forward(local, HUMAN.offsets(torch.float64), root, HUMAN.parents)[0]


def test_the_first_feature_is_half_the_turn() -> None:
    """Away from the smoothed ends the heading turns by the rate a frame, and the feature holds half of it, negated."""
    features = encode(spinning(0.1))
    assert features[100:300, 0].tolist() == pytest.approx([-0.05] * 200, abs=1e-9)
    undo, _ = decode_root(features)
    between_frames = 2 * torch.atan2(undo[:, 2], undo[:, 0]).diff()[100:120]
    assert torch.remainder(-between_frames, 2 * math.pi).tolist() == pytest.approx([0.1] * 20)


def test_more_than_a_whole_turn_has_no_jump() -> None:
    """The published code flips the sign of its quaternion at 180 degrees; ours must go on turning."""
    features = encode(canonical(spinning(0.1)))
    assert float(features[:, 0].max()) < 0
    assert float(features[:, 0].min()) > -0.08  # up to 0.075 where the smoothing sees a held end


def test_t_poses_make_one_row_less_and_row_t_leads_to_pose_t_plus_1() -> None:
    poses = canonical(wander(30))
    features = encode(poses)
    assert len(features) == 29
    _, root = decode_root(torch.cat([features, torch.zeros(1, 263, dtype=torch.float64)]))
    assert torch.allclose(root[:, [0, 2]], poses[:, 0, [0, 2]], atol=1e-9)  # the last row's velocity reaches pose T
    velocities = features[..., Groups(22).slices()[5]].unflatten(-1, (22, 3))
    undo, _ = decode_root(features)
    moved = rotate(about_y(heading(poses)[:-1, None]), velocities)
    assert torch.allclose(poses[:-1] + moved, poses[1:], atol=1e-9)
    assert undo.shape == (29, 4)


def test_contacts_are_of_still_feet_left_first() -> None:
    poses = torch.zeros(10, 22, 3).double() + wander(1)
    poses[:, [7, 10], 1] += 0.1 * torch.arange(10, dtype=torch.float64)[:, None]
    assert encode(poses)[:, -4:].tolist() == [[0, 0, 1, 1]] * 9
    poses = torch.zeros(10, 22, 3).double() + wander(1)
    step = math.sqrt(0.002)
    poses[:, 8, 0] += 1.01 * step * torch.arange(10, dtype=torch.float64)
    poses[:, 11, 0] += 0.99 * step * torch.arange(10, dtype=torch.float64)
    assert encode(poses)[:, -4:].tolist() == [[1, 1, 0, 1]] * 9


@pytest.mark.parametrize(
    ("poses", "words"),
    [
        (torch.zeros(1, 22, 3), "1 frames"),
        (torch.zeros(0, 22, 3), "0 frames"),
        (torch.zeros(5, 21, 3), "retarget"),
        (torch.full((5, 22, 3), math.nan), "NaN"),
    ],
)
def test_what_is_no_motion_is_refused(poses: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode(poses)
    with pytest.raises(ValueError, match=words):
        canonical(poses)


def test_decode_refuses_other_widths() -> None:
    with pytest.raises(ValueError, match="251"):
        decode(torch.zeros(4, 251))


def test_ten_minutes_are_one_clip() -> None:
    poses = canonical(wander(12_000, turn=300.0))
    assert float((decode(encode(poses)) - poses[:-1]).abs().max()) < 1e-7


def test_normalisation_comes_back_and_shares_deviations_in_each_part(tmp_path: Path) -> None:
    frames = torch.cat([encode(canonical(wander(40, seed))) for seed in range(3)]).float()
    normal = Normal.of(frames, 22)
    x = normal.apply(frames)
    assert torch.allclose(normal.undo(x), frames, atol=1e-5)
    assert x.mean(0).abs().max() < 1e-3
    for part in Groups(22).slices():
        assert len(normal.deviation[part].unique()) == 1
    normal.write(tmp_path)
    assert torch.equal(Normal.read(tmp_path).deviation, normal.deviation)
    with pytest.raises(ValueError, match=r"Mean\.npy"):
        Normal.read(tmp_path / "nowhere")


def test_rotations_bring_the_rest_pose_to_the_joints() -> None:
    poses = wander(20, seed=4)
    local = rotations(poses, HUMAN.offsets(torch.float64), HUMAN.parents)
    again, _ = forward(local, HUMAN.offsets(torch.float64), poses[:, 0], HUMAN.parents)
    assert float((again - poses).abs().max()) < 1e-9
    assert torch.allclose(local @ local.transpose(-1, -2), torch.eye(3).double().expand_as(local), atol=1e-9)
    assert torch.allclose(torch.linalg.det(local), torch.ones(20, 22).double())


def test_forward_kinematics_of_one_bent_knee() -> None:
    local = torch.eye(3, dtype=torch.float64).repeat(22, 1, 1)
    local[HUMAN.names.index("left_knee")] = euler_to_matrix(torch.tensor([math.pi / 2]).double(), "X")
    joints, _ = forward(local, HUMAN.offsets(torch.float64), torch.zeros(3).double(), HUMAN.parents)
    knee, ankle = joints[4], joints[7]
    assert torch.allclose(ankle - knee, torch.tensor([-0.015, 0.03, -0.41]).double(), atol=1e-12)


def test_mirror_exchanges_sides() -> None:
    rest, _ = forward(torch.eye(3).expand(22, 3, 3), HUMAN.offsets(), torch.zeros(3), HUMAN.parents)
    assert torch.allclose(HUMAN.reflect(rest), rest, atol=1e-6)
    assert [HUMAN.mirror[HUMAN.mirror[joint]] for joint in range(22)] == list(range(22))
    assert HUMAN.mirror[7] == 8 and HUMAN.mirror[0] == 0 and KIT.mirror[5] == 8


def test_resampling_is_exact_where_the_rate_divides_and_keeps_bones() -> None:
    poses = wander(61)
    assert torch.equal(resample(poses, 60, 20), poses[::3])
    line = torch.arange(7, dtype=torch.float64).view(7, 1, 1)
    assert resample(line, 30, 20).flatten().tolist() == pytest.approx([0, 1.5, 3, 4.5, 6])
    assert resample(line, 20, 40).flatten().tolist() == pytest.approx([i / 2 for i in range(13)])
    assert resample(line[:1], 30, 20).shape == (1, 1, 1)
    local = rotations(poses, HUMAN.offsets(torch.float64), HUMAN.parents)
    turned = resample_rotations(local, 30, 50)
    root = resample(poses[:, :1], 30, 50)[:, 0]
    joints, _ = forward(turned, HUMAN.offsets(torch.float64), root, HUMAN.parents)
    assert torch.allclose(HUMAN.lengths(joints), HUMAN.lengths(poses)[:1].expand(len(joints), -1), atol=1e-9)
    assert torch.allclose(joints[::5], poses[::3], atol=1e-9)
    with pytest.raises(ValueError, match="positive"):
        resample(poses, 0, 20)
