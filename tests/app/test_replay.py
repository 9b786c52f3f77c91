"""Motions are made again from their settings, whatever kind of file holds them and whatever made them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.main import main
from motion.files import Take, write
from tests.support.commands import Command, refused
from tests.support.poses import wander
from tests.support.runs import QUIET

FEW = ["--steps", "2"]


@pytest.fixture(scope="module")
def motions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of motions after one step."""
    folder = tmp_path_factory.mktemp("motions")
    small = ["--width", "16", "--depth", "1", "--text-width", "16", "--count", "64", "--steps", "1", "--batch", "4"]
    assert main(["train", "mdm", *small, *QUIET, "--precision", "no", "--save", "0", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 41 poses."""
    path = tmp_path_factory.mktemp("clip") / "clip.npz"
    write(path, Take(wander(41, 0), caption="something"))
    return path


def replayed(command: Command, file: Path) -> None:
    """Replay makes a file of the same bytes."""
    status, printed, err = command("replay", file)
    assert status == 0 and f"the same as {file.name}" in printed and "NOT" not in printed, err
    made = Path(printed.split(": ")[0])
    assert made != file and made.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("suffix", [".gif", ".bvh", ".npz", ".glb", ".png"])
def test_samples_are_made_again_to_the_byte(command: Command, motions: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"wave{suffix}"
    words = ["--prompt", "a person waves", "--count", "1", "--seed", "3", "--out", out, *FEW]
    short = ["--seconds", "1"] if suffix == ".gif" else []  # a film takes long to draw
    assert command("sample", motions, *words, *short)[0] == 0
    assert out.with_name(f"{out.name}.json").exists() == (suffix != ".png")
    replayed(command, out)


def test_each_of_several_files_is_made_again(command: Command, motions: Path, tmp_path: Path) -> None:
    words = ["--prompt", "walks; waves", "--count", "2", "--out", tmp_path / "pair.bvh", *FEW]
    assert command("sample", motions, *words)[0] == 0
    names = [f"pair-00{number}.bvh" for number in range(2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, *(f"{name}.json" for name in names)])
    assert [json.loads((tmp_path / f"{name}.json").read_text())["file"] for name in names] == [0, 1]
    one, two = (tmp_path / name for name in names)
    assert one.read_bytes() != two.read_bytes()
    replayed(command, one)
    replayed(command, two)
    # Settings beside the wrong file are noticed: it is not the first clip that is made.
    one.write_bytes(two.read_bytes())
    status, printed, err = command("replay", one)
    assert status == 2 and "NOT the same" in printed and "differs" in err


@pytest.mark.parametrize(
    "words",
    [
        ["extend", "--seconds", "3"],
        ["extend", "--prompt", "sits", "--seconds", "3", "--count", "2"],
        ["in-between", "--prompt", "waves", "--keep", "0:10,30:"],
        ["regenerate", "--part", "lower", "--keep", "0:5"],
    ],
    ids=" ".join,
)
def test_edits_are_made_again(command: Command, motions: Path, clip: Path, tmp_path: Path, words: list[str]) -> None:
    out = tmp_path / "edited.npz"
    assert command("edit", words[0], motions, clip, *words[1:], "--seed", "4", "--out", out, *FEW)[0] == 0
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) == (2 if "--count" in words else 1)
    for file in files:
        replayed(command, file)


def test_a_source_that_changed_is_noticed(command: Command, motions: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "clip.npz", tmp_path / "edited.npz"
    write(source, Take(wander(41, 0)))
    assert command("edit", "regenerate", motions, source, "--out", out, *FEW)[0] == 0
    write(source, Take(wander(41, 1)))
    refused(command("replay", out), "clip.npz", "content differs")


def unsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, opening a model is an error of the test."""

    def opened(*given: object) -> None:
        pytest.fail("a model was opened before the name of the file was checked")

    for module in ("sampling", "edit", "replay"):
        monkeypatch.setattr(f"app.{module}.open_model", opened)


def test_a_suffix_that_is_not_written_is_refused_before_sampling(
    command: Command, motions: Path, clip: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "wave.npz"
    assert command("sample", motions, "--prompt", "waves", "--count", "1", "--out", old, *FEW)[0] == 0
    before = sorted(tmp_path.iterdir())
    unsampled(monkeypatch)
    refused(command("sample", motions, "--out", tmp_path / "a.wav"), "a.wav", ".bvh")
    refused(command("sample", run_folder, "--out", tmp_path / "a.gif"), "a.gif", ".png")
    refused(command("edit", "regenerate", motions, clip, "--out", tmp_path / "a.wav"), "a.wav", ".bvh")
    refused(command("replay", old, "--out", tmp_path / "a.wav"), "a.wav", ".bvh")
    refused(command("replay", old, "--out", tmp_path / "a.bvh"), "a.bvh", ".npz")
    assert sorted(tmp_path.iterdir()) == before


def test_flags_of_another_modality_are_refused_by_name(
    command: Command, motions: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(command("sample", motions, "--control", "x.png"), "--control", "modality image")
    refused(command("sample", run_folder, "--seconds", "3"), "--seconds", "modality motion")
    refused(command("evaluate", motions, "--size", "64"), "--size", "modality image")
    assert not list(tmp_path.iterdir())
