"""Procedural motions: true to their captions, physically sound, and the same for ever."""

from __future__ import annotations

import math
import zlib
from collections import Counter

import pytest
import torch

from core.data.dataset import check
from core.data.order import OrderedDataset
from motion.acts import Style, jump, kick, walk
from motion.body import Proportions, pose
from motion.curves import FPS, SIDES, Track
from motion.features import canonical, decode, encode
from motion.generator import Clip, Motions, motions, poses
from motion.observe import agrees, direction_of_walk, observe, side_of_wave
from motion.physics import bone_error, penetration, skating
from motion.script import Act, Kind, script
from motion.skeleton import HUMAN

Made = tuple[torch.Tensor, torch.Tensor, list[Clip]]


@pytest.fixture(scope="module")
def made() -> Made:
    return poses(0, range(300))


@pytest.fixture(scope="module")
def parts() -> tuple[Motions, Motions]:
    return motions(1000, 100)


def test_feet_that_stand_do_not_move_and_bones_keep_their_length() -> None:
    """The curves say when a foot is nailed down: in both of two such frames the toe is at the same place exactly."""
    style = Style()
    for side in SIDES:
        track = Track()
        walk(track, style, 2.0, 1.4, 0.0, 0.8)
        kick(track, style, side, 0.7)
        jump(track, style, 0.3, 0.4)
        joints = torch.from_numpy(pose([track], [Proportions(1.05, 0.96, 1.04, 1.0, 1.1, 0.95)])[0])
        lengths = HUMAN.lengths(joints)
        assert float((lengths - lengths[0]).abs().max()) < 1e-12
        for foot, name in zip(("left", "right"), ("left_foot", "right_foot")):
            down = torch.from_numpy(track.curves[f"{foot}_down"]) > 0
            still = joints[:, HUMAN.names.index(name)].diff(dim=0).norm(dim=-1)[down[1:] & down[:-1]]
            assert len(still) > 20
            assert float(still.max()) < 1e-9


def test_clips_are_physically_sound(made: Made) -> None:
    joints, valid, _ = made
    counts = torch.cat([valid[:, :1], valid], dim=1)
    assert float(bone_error(joints, counts).max()) < 1e-9
    assert float(penetration(joints, counts).max()) < 1e-9
    assert float(skating(joints, FPS, counts).mean()) < 0.02
    assert float(joints.diff(n=2, dim=1).norm(dim=-1).max()) * FPS**2 < 220  # metres a second squared


def test_bodies_differ(made: Made) -> None:
    lengths = HUMAN.lengths(made[0][:, 0])
    spread = lengths.std(0) / lengths.mean(0)
    assert float(spread.min()) > 0.03 and float(spread.max()) < 0.1


def test_motions_show_what_the_captions_say(made: Made) -> None:
    joints, _, clips = made
    shown: Counter[bool] = Counter()
    single: Counter[bool] = Counter()
    for clip, found in zip(clips, joints, strict=True):
        seen = observe(found[: clip.frames + 1])
        for act in clip.script.acts:
            shown[agrees(act, seen)] += 1
            if len(clip.script.acts) == 1:
                single[agrees(act, seen)] += 1
    assert single[False] <= 0.02 * single.total()
    assert shown[False] <= 0.08 * shown.total()  # two acts in a row add up to measures that belong to neither


def test_what_is_seen_is_not_what_the_mirror_shows(made: Made) -> None:
    joints, _, clips = made
    for clip, found in zip(clips, joints, strict=True):
        act = clip.script.acts[0]
        if len(clip.script.acts) == 1 and (act.kind in (Kind.WAVE, Kind.KICK, Kind.TURN) or "to the" in act.direction):
            turned = observe(HUMAN.reflect(found[: clip.frames + 1]))
            assert not agrees(act, turned), clip.caption


def test_words_are_true() -> None:
    for index in range(400):
        found, _ = script(3, index, held_out=False)
        text = found.caption
        for act in found.acts:
            if act.kind in (Kind.WAVE, Kind.KICK):
                limbs = ("hand", "arm") if act.kind is Kind.WAVE else ("foot", "leg")
                assert any(f"{act.side} {limb}" in text for limb in limbs), text
            if act.turn:
                assert ("left" if act.turn > 0 else "right") in text, text
            if act.kind is Kind.WALK:
                assert act.direction in text and act.pace in text, text
                assert (act.speed < 0.8) == ("slowly" in text) or act.direction != "forward", text
            if act.kind is Kind.JUMP:
                assert ("high" in text) == (act.height > 0.31) or len(found.acts) > 1, text


def test_a_clip_depends_on_its_seed_and_index_only(made: Made) -> None:
    joints, valid, clips = made
    again, marks, others = poses(0, [17, 250, 3])
    for row, index in enumerate((17, 250, 3)):
        assert torch.allclose(again[row], joints[index], atol=1e-12)
        assert torch.equal(marks[row], valid[index])
        assert others[row] == clips[index]
    assert poses(1, [17])[2][0] != clips[17]


def test_held_out_captions_never_occur_in_training() -> None:
    train = {script(0, index, held_out=False)[0].caption for index in range(3000)}
    held_out_part = {script(0, index, held_out=True)[0].caption for index in range(500)}
    assert not train & held_out_part
    assert len(train) > 1000 and len(held_out_part) > 100
    kinds = {script(0, index, held_out=True)[0].acts[0].kind for index in range(500)}
    assert kinds == set(Kind)


def test_captions_stay_what_they_were() -> None:
    """Models are trained on them, so the scripts of a seed never change."""
    captions = [
        script(seed, index, held_out)[0].caption
        for seed in (0, 3)
        for held_out in (False, True)
        for index in range(200)
    ]
    assert zlib.crc32("\n".join(captions).encode()) == 0xADE8EB4A


def test_batches_are_normalised_and_come_back_as_joints(parts: tuple[Motions, Motions]) -> None:
    train, held_out_part = parts
    batch = train.get(range(64))
    check(batch, list(range(64)))
    x, valid = batch["x"], batch["valid"]
    assert x.shape == (64, 120, 263) and x.dtype == torch.float32 and train.shape == (120, 263)
    assert float(x[valid].mean()) == pytest.approx(0, abs=0.1)
    assert float(x[valid].std()) == pytest.approx(1, abs=0.2)
    assert bool((x[~valid] == 0).all())
    lengths = valid.sum(1)
    assert bool((lengths % 4 == 0).all()) and int(lengths.min()) >= 40 and int(lengths.max()) <= 120
    joints = decode(train.normal.undo(x))
    truth = poses(0, range(64))[0][:, :-1].float()
    assert float((joints - truth)[valid].abs().max()) < 1e-5
    assert held_out_part.normal is train.normal and all(c.script.held_out for c in held_out_part.get(range(20))["clip"])
    assert len(OrderedDataset(train, seed=0)[range(8)]["caption"]) == 8


def test_encoding_the_procedural_set_is_exact(made: Made) -> None:
    joints = made[0].float()
    assert float((decode(encode(joints)) - joints[:, :-1]).abs().max()) < 1e-5
    assert torch.allclose(canonical(made[0]), made[0], atol=1e-9)


def test_jumps_rise_as_asked_and_fall_with_gravity() -> None:
    track = Track()
    jump(track, Style(), 0.45, 0.8)
    joints = torch.from_numpy(pose([track], [Proportions()])[0])
    pelvis = joints[:, 0, 1]
    assert float(pelvis.max() - pelvis[0]) == pytest.approx(0.45, abs=0.02)
    flying = torch.from_numpy(track.curves["left_down"]) == 0
    middle = flying.nonzero().flatten()[1:-1]
    falling = pelvis.diff(n=2)[middle[1:-1] - 1] * FPS**2
    assert falling.tolist() == pytest.approx([-9.81] * len(falling), rel=0.02)
    assert float(joints[-1, 0, 2] - joints[0, 0, 2]) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(("heading", "word"), [(0.0, "forward"), (math.pi, "backward"), (math.pi / 2, "to the left")])
def test_walks_go_where_and_as_fast_as_asked(heading: float, word: str) -> None:
    track = Track()
    walk(track, Style(), 4.0, 0.6, heading, 0.0)
    joints = torch.from_numpy(pose([track], [Proportions()])[0])
    seen = observe(joints)
    assert direction_of_walk(seen) == word
    assert seen.speed == pytest.approx(0.6, abs=0.1)
    assert side_of_wave(seen) == ""
    assert agrees(Act(Kind.WALK, direction=word), seen)
