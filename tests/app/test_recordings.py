"""Recordings through the command: prompts that follow one another, changes of a clip, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.main import main
from app.recordings import spans
from core.grid import trailing
from core.random import SamplingRNG
from core.recipe import Sampling, load
from core.sample.dpm import dpmpp_2m
from core.train.state import newest
from motion.changing import parse_segments
from motion.compose import sequence
from motion.features import canonical, decode, encode
from motion.files import Take, read, write
from motion.generator import Motions, normal_of
from tests.support.commands import Command, refused

FEW = ["--steps", "2"]


@pytest.fixture(scope="module")
def motions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of motions after two steps."""
    folder = tmp_path_factory.mktemp("motions")
    small = ["--width", "16", "--depth", "1", "--text-width", "16", "--count", "64", "--steps", "2", "--batch", "4"]
    quiet = ["--precision", "no", "--hold-out", "0", "--show", "0", "--log", "0", "--save", "0", "--cpu"]
    assert main(["train", "mdm", *small, *quiet, "--processes", "1", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 61 poses, 60 rows."""
    path = tmp_path_factory.mktemp("clip") / "clip.npz"
    normal = normal_of()
    joints = decode(normal.undo(Motions(1, normal).get([0])["x"]))[0, :61]
    write(path, Take(joints, caption="something"))
    return path


def test_prompts_follow_one_another(command: Command, motions: Path, tmp_path: Path) -> None:
    out = tmp_path / "long.npz"
    words = ["--prompt", "walks; waves; sits", "--seconds", "2", "3", "2.5", "--count", "1", "--seed", "5"]
    status, printed, err = command("sample", motions, *words, "--out", out, *FEW)
    assert status == 0 and "1 samples" in printed, err
    take = read(out)
    assert len(take.joints) == 150 and take.caption == "walks; waves; sits"
    loaded = load(newest(motions) or motions)
    sampling = Sampling(dpmpp_2m, trailing, 2, guidance=2.5)
    with torch.no_grad():
        x = sequence(
            loaded.system, parse_segments("walks; waves; sits", [2, 3, 2.5], 120), 12, SamplingRNG(5, [0]), sampling
        )
    assert float((take.joints - decode(normal_of().undo(x))[0]).abs().max()) < 1e-4


def test_a_sequence_is_replayed(command: Command, motions: Path, tmp_path: Path) -> None:
    out = tmp_path / "long.png"
    words = ["--prompt", "walks; sits", "--seconds", "2", "--count", "2", "--batch", "1", "--out", out]
    assert command("sample", motions, *words, *FEW)[0] == 0
    with Image.open(out) as page:
        settings = json.loads(page.info["langevin"])
    assert settings["seconds"] == [2.0] and settings["captions"] == ["walks; sits"] * 2
    status, printed, err = command("replay", out)
    assert status == 0 and "the same picture" in printed and "NOT" not in printed, err


def test_kept_frames_are_kept_and_the_rest_is_new(command: Command, motions: Path, clip: Path, tmp_path: Path) -> None:
    out, known = tmp_path / "between.npz", read(clip)
    words = ["--prompt", "waves the left hand", "--keep", "0:20,40:", "--out", out, *FEW]
    status, printed, err = command("edit", motions, clip, *words)
    assert status == 0 and "clip.npz, changed" in printed, err
    truth, found = decode(encode(canonical(known.joints))), read(out).joints
    assert found.shape == truth.shape
    away = (found - truth).norm(dim=-1).amax(-1)
    assert float(away[:20].max()) < 1e-4 and float(away[40:].max()) < 1e-4
    # The first new frame is where the kept ones lead, which is where the recording is.
    assert float(away[20]) < 1e-4 and float(away[24:36].min()) > 0.01
    assert read(out).caption == "waves the left hand"


def test_limbs_are_regenerated_and_clips_extended(command: Command, motions: Path, clip: Path, tmp_path: Path) -> None:
    out, truth = tmp_path / "upper.bvh", decode(encode(canonical(read(clip).joints)))
    assert command("edit", motions, clip, "--part", "upper", "--count", 2, "--out", out, *FEW)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["upper-000.bvh", "upper-001.bvh"]
    out = tmp_path / "upper.npz"
    assert command("edit", motions, clip, "--part", "upper", "--out", out, *FEW)[0] == 0
    away = (read(out).joints - truth).norm(dim=-1).mean(0)
    assert float(away[[0, 1, 4, 7, 10, 11]].max()) < 1e-4 and float(away[20]) > 0.01
    out = tmp_path / "on.npz"
    assert command("edit", motions, clip, "--prompt", "sits", "--seconds", 9, "--out", out, *FEW)[0] == 0
    found = read(out).joints
    assert len(found) == 180 and float((found[:60] - truth).norm(dim=-1).max()) < 1e-4


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--keep", "0:20,70:80"], ["70 to 80", "of 60"]),
        (["--keep", "20"], ["'20'", "0:20,60:80"]),
        (["--keep", "30:10"], ["30 to 10"]),
        (["--keep", ":"], ["nothing is generated"]),
        ([], ["nothing is generated"]),
        (["--part", "tail"], ["'tail'", "upper"]),
        (["--seconds", "nan"], ["nan"]),
        (["--mask", "hole.png"], ["--mask", "recordings"]),
        (["--keep", "0:20", "--strength", "0.4"], ["--strength"]),
        (["--keep", "0:20", "--count", "0"], ["--count"]),
        (["--keep", "0:20", "--out", "a.txt"], [".txt"]),
    ],
    ids=" ".join,
)
def test_changes_that_cannot_be(
    command: Command,
    motions: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    complaint: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(command("edit", motions, clip, *words, *FEW), *complaint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.bvh", "HIERARCHY\nROOT Hips\n{\n OFFSET 0 0"),
        ("empty.npz", ""),
        ("words.txt", "a person walks"),
        ("nowhere.bvh", None),
    ],
)
def test_files_that_are_no_motions(
    command: Command, motions: Path, tmp_path: Path, name: str, content: str | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    out = tmp_path / "out.png"
    refused(command("edit", motions, path, "--keep", "0:2", "--out", out))
    assert not out.exists()


def test_poses_that_are_none(command: Command, motions: Path, clip: Path, tmp_path: Path) -> None:
    joints = read(clip).joints.numpy()
    for name, values in (("one", joints[:1]), ("nan", np.where(np.arange(61)[:, None, None] == 7, np.nan, joints))):
        np.savez(tmp_path / f"{name}.npz", joints=values, fps=20.0, caption="")
        refused(command("edit", motions, tmp_path / f"{name}.npz", "--keep", "0:2", "--out", tmp_path / "out.png"))
    assert not (tmp_path / "out.png").exists()


def test_what_only_recordings_have_is_refused_elsewhere(
    command: Command, motions: Path, run_folder: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "known.png"
    Image.new("L", (8, 8)).save(picture)
    refused(command("edit", run_folder, picture, "--keep", "0:2"), "--keep", "recordings")
    refused(command("sample", run_folder, "--prompt", "3", "--seconds", "2"), "--seconds")
    refused(command("sample", motions, "--seconds", "2"), "--prompt")
    refused(command("sample", motions, "--prompt", "walks; sits", "--seconds", "2", "2", "2"), "2 prompts", "3")
    refused(command("sample", motions, "--prompt", "walks; sits", "--seconds", "9"), "'walks'", "9 s")
    refused(command("evaluate", motions, "--seconds", "2"), "--seconds")


def test_spans_are_read() -> None:
    assert spans(None) is None
    assert spans("0:20, 60:") == ((0, 20), (60, None)) and spans(":5") == ((0, 5),)
