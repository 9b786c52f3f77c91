"""Recordings of one's own: what is found in folders and files, what is prepared, how it is split and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.data.dataset import DataError
from core.data.order import OrderedDataset
from core.data.survey import plainly
from motion import preparation
from motion.cleaning import features_of, torn
from motion.features import Normal, decode
from motion.feet import Feet
from motion.files import Take, write
from motion.generator import poses
from motion.modality import MODALITY
from motion.physics import skating
from motion.preparation import prepare, read_index
from motion.skeleton import HUMAN
from motion.sources import grouped, open_source
from motion.splitting import GAP, split
from motion.windows import open_parts, prepared_beside
from tests.support.poses import wander


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two classes of three recordings in folders, a copy, a broken and a short file, and a stranger."""
    folder = tmp_path / "mine"
    for label, seeds in (("walks left", (0, 1, 2)), ("walks right", (3, 4, 5))):
        for seed in seeds:
            write_take(folder / label / f"{seed}.bvh", wander(90 + 6 * seed, seed), 30.0)
    (folder / "walks left" / "again.bvh").write_bytes((folder / "walks left" / "0.bvh").read_bytes())
    (folder / "walks left" / "broken.bvh").write_text("HIERARCHY\nROOT Hips\n")
    write_take(folder / "walks right" / "short.npz", wander(5), 30.0)
    (folder / "walks right" / "dance.fbx").write_bytes(b"")
    return folder


def write_take(path: Path, joints: Tensor, fps: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, Take(joints.float(), fps))


def names_of(parts: Sequence[str]) -> list[str]:
    return sorted(Path(name).as_posix() for name in parts)


def test_folders_are_classes_and_what_cannot_be_used_is_named(recordings: Path) -> None:
    survey = MODALITY.survey(recordings)
    assert survey.count == 7 and survey.classes == ("walks left", "walks right") and survey.members == (4, 3)
    assert survey.shapes[59, 263] == 2 and survey.duplicates == (("walks left/0.bvh", "walks left/again.bvh"),)
    assert {each.name for each in survey.left_out} == {"walks left/broken.bvh", "walks right/short.npz"}
    assert any("line 2" in each.why for each in survey.left_out)
    assert any("1 .fbx files are not read" in note for note in survey.notes)
    assert MODALITY.count_data(recordings) == 9
    assert not recordings.with_name("mine-prepared").exists()


def test_names_with_numbers_are_classes_too_and_captions_count_before(tmp_path: Path) -> None:
    for name in ("salsa_01", "salsa_02", "waltz_01", "waltz_02"):
        write_take(tmp_path / f"{name}.npz", wander(30, len(name)), 20.0)
    assert open_source(tmp_path).classes == ("salsa", "waltz")
    for name in ("salsa_01", "salsa_02", "waltz_01", "waltz_02"):
        (tmp_path / f"{name}.txt").write_text(f"someone dances {name}\nand again#and/CC#0.0#0.0\n")
    source = open_source(tmp_path)
    assert source.classes == () and source.recordings[0].captions == ("someone dances salsa_01", "and again")


def test_a_table_says_captions_classes_groups_and_splits(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_take(tmp_path / f"{name}.bvh", wander(30, ord(name)), 20.0)
    (tmp_path / "captions.csv").write_text(
        "file,caption,class,subject,split\n"
        "a.bvh,one walks,walk,7,train\nb.bvh,two walk,walk,7,train\nc,runs,run,8,test\n"
    )
    found = open_source(tmp_path).recordings
    assert [(each.label, each.captions, each.group, each.test) for each in found] == [
        ("walk", ("one walks",), "7", False),
        ("walk", ("two walk",), "7", False),
        ("run", ("runs",), "8", True),
    ]
    index = prepare(tmp_path, tmp_path.with_name("ready"), plainly)
    assert [each.held_out[1] > 0 for each in index.recordings] == [False, False, True]


def test_prepared_recordings_are_features_split_by_recording(recordings: Path, tmp_path: Path) -> None:
    index = prepare(recordings, tmp_path / "ready", plainly)
    assert len(index.recordings) == 6 and len(index.left_out) == 3
    assert any(each.name == "walks left/again.bvh" and "the same as" in each.why for each in index.left_out)
    for each in index.recordings:
        assert (each.train == (0, 0)) != (each.held_out == (0, 0))
        assert np.load(tmp_path / "ready" / each.file).shape == (each.rows, 263)
    for label in index.classes:
        assert any(each.held_out[1] for each in index.recordings if each.label == label)
    shown = np.concatenate(
        [np.load(tmp_path / "ready" / each.file)[slice(*each.train)] for each in index.recordings if each.train[1]]
    )
    # The mirror image counts as well, so what is on one side has the mean of both.
    assert float(Normal.read(tmp_path / "ready").mean[0]) == pytest.approx(0, abs=1e-6)
    assert float(Normal.read(tmp_path / "ready").mean[3]) == pytest.approx(float(shown[:, 3].mean()), abs=1e-4)
    assert MODALITY.survey(tmp_path / "ready").count == 6
    assert len(MODALITY.examples(tmp_path / "ready", 3)) == 3 == len(MODALITY.examples(recordings, 3)) + 0


def test_a_stopped_preparation_goes_on_and_what_changed_is_prepared_again(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(recordings, tmp_path / "whole", plainly)
    count = 0

    def interrupted(take: Take) -> Tensor:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return features_of(take)

    monkeypatch.setattr(preparation, "features_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(recordings, tmp_path / "ready", plainly)
    assert read_index(tmp_path / "ready") is None and len(list((tmp_path / "ready" / "features").iterdir())) == 3
    again = prepare(recordings, tmp_path / "ready", plainly)
    assert again == whole and count == 4 + 3 + 1  # the three that were missing, and the short one, which never is there
    assert prepare(recordings, tmp_path / "ready", plainly) == whole and count == 8
    write_take(recordings / "walks left" / "new.bvh", wander(200, 9), 30.0)
    assert len(prepare(recordings, tmp_path / "ready", plainly).recordings) == 7 and count == 10


def test_raw_recordings_are_prepared_beside_and_windows_overlap(
    recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = open_parts(recordings, 24)
    assert prepared_beside(recordings).is_dir() and str(prepared_beside(recordings)) in capsys.readouterr().err
    open_parts(recordings, 24)
    assert capsys.readouterr().err == ""
    assert parts.classes == ("walks left", "walks right") and not parts.captioned
    assert MODALITY.own_arguments(recordings) == {"frames": 68, "length": 40}
    assert {piece.path for piece in parts.train.pieces}.isdisjoint(piece.path for piece in parts.held_out.pieces)
    batch = parts.held_out.get(range(len(parts.held_out)))
    assert batch["x"].shape[1:] == (24, 263) and bool(batch["valid"].all())
    assert [parts.classes[label] for label in batch["label"].tolist()] == batch["caption"]
    one = [piece for piece in parts.train.pieces if piece.path == parts.train.pieces[0].path]
    assert [piece.start for piece in one] == list(range(0, one[-1].start + 1, 12))
    ordered = OrderedDataset(parts.train, 0)
    drawn = ordered[range(400)]
    # Mirror images of what walks left walk right, by caption and class, and so half of each are of the other.
    assert [parts.classes[label] for label in drawn["label"].tolist()] == drawn["caption"]
    of_pieces = [parts.train.pieces[index].label for index in ordered.indices(range(400))]
    assert 0.3 < sum(a != b for a, b in zip(of_pieces, drawn["label"].tolist())) / 400 < 0.7


def test_a_class_without_its_mirror_image_is_not_mirrored(recordings: Path) -> None:
    (recordings / "walks right").rename(recordings / "stands")
    parts = open_parts(recordings, 24)
    assert parts.classes == ("stands", "walks left") and not parts.train.mirrored


def test_splits_hold_out_whole_groups_of_each_class_or_the_ends() -> None:
    labels, groups = ["a"] * 12 + ["b"] * 2, [str(number // 2) for number in range(12)] + ["x", "x"]
    parts = split(labels, groups, [100] * 12 + [400] * 2, [None] * 14)
    sides = [held_out == (0, 0) for _, held_out in parts[:12]]
    assert sides[::2] == sides[1::2] and sides.count(False) == 2
    assert parts[12] == parts[13] == ((0, 320 - GAP), (320, 400))  # one scene: the ends of both, and nothing near them
    assert split(labels, groups, [50] * 14, [None, True] + [None] * 12)[1] == ((0, 0), (0, 50))
    assert split(labels, groups, [50] * 14, [None, True] + [None] * 12)[0] == ((0, 50), (0, 0))


def test_pairs_of_equal_length_are_scenes_where_most_are(tmp_path: Path) -> None:
    for number in range(6):
        write_take(tmp_path / f"{number}.npz", wander(30, number), 20.0)
    found = open_source(tmp_path).recordings
    assert len(set(grouped(found, [10, 20, 30, 10, 20, 40]))) == 4
    assert len(set(grouped(found, [10, 10, 30, 50, 20, 40]))) == 6  # by chance
    assert len(set(grouped(found, [10, 10, 10, 20, 20, 30]))) == 6  # of usual lengths


def test_a_rest_pose_is_cut_off_and_the_floor_is_where_feet_are() -> None:
    joints = wander(120, 1).float()
    rest = joints[:1] - torch.tensor([1.0, 0.3, 0.5])
    assert torn(torch.cat([rest, joints]), 30.0) in (1, 2) and torn(joints, 30.0) == 0
    fading = torch.cat([rest + (joints[:1] - rest) * share for share in (0.0, 0.6, 0.9)])
    assert 3 <= torn(torch.cat([fading, joints]), 30.0) <= 5
    plain, cut = features_of(Take(joints, 20.0)), features_of(Take(torch.cat([rest, joints]), 20.0))
    assert len(plain) - len(cut) in (0, 1)
    # The rest pose is 30 cm lower; it neither lowers the floor nor is it to be seen.
    assert float((plain[-100:, 3] - cut[-100:, 3]).abs().max()) < 0.01
    lowest = decode(plain)[..., 1].amin(-1)
    assert abs(float(lowest.quantile(0.01))) < 2e-3


@pytest.mark.parametrize(
    ("joints", "words"),
    [
        (lambda: wander(6), "it lasts 0.3 s"),
        (lambda: wander(40) * torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64), "below its feet"),
    ],
)
def test_what_is_no_motion_of_a_body_is_refused(joints: Callable[[], Tensor], words: str) -> None:
    take = Take(joints().float(), 20.0)
    with pytest.raises(ValueError, match=words):
        features_of(take)


def test_feet_are_measured_where_they_are() -> None:
    """Of people who plant their feet, and of the same on skates: what slides itself is not lifted, and not planted."""
    joints, valid, _ = poses(0, range(24))
    standing = [features_of(Take(each[: int(rows.sum())].float(), 20.0)) for each, rows in zip(joints, valid)]
    skates = joints + 0.05 * torch.arange(joints.shape[1])[:, None, None] * joints.new_tensor([1.0, 0.0, 0.0])
    sliding = [features_of(Take(each[: int(rows.sum())].float(), 20.0)) for each, rows in zip(skates, valid)]
    feet, skaters = Feet.of(standing), Feet.of(sliding)
    assert 0.04 <= feet.low < 0.1 and feet == Feet(feet.low)
    assert 0.1 <= skaters.slow <= HUMAN.still**0.5 * HUMAN.fps and skaters.slide > 0.9
    assert float(torch.stack([skating(decode(each), 20.0) for each in sliding]).mean()) > 0.4


def test_a_broken_index_and_nothing_to_prepare_are_refused(tmp_path: Path, recordings: Path) -> None:
    prepare(recordings, tmp_path / "ready", plainly)
    (tmp_path / "ready" / preparation.INDEX).write_text(json.dumps({"format": preparation.FORMAT}))
    with pytest.raises(DataError, match="is broken"):
        open_parts(tmp_path / "ready", 24)
    with pytest.raises(DataError, match="lies in"):
        prepare(recordings, recordings / "ready", plainly)
    with pytest.raises(DataError, match="features already"):
        prepare(tmp_path / "ready", tmp_path / "ready2", plainly)
    with pytest.raises(DataError, match="does not exist"):
        prepare(tmp_path / "nothing", tmp_path / "ready2", plainly)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no motions"):
        prepare(tmp_path / "empty", tmp_path / "ready2", plainly)
