"""`langevin data` says what data are, and `langevin prepare` makes data of them that are the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image.data import open_parts
from tests.support.commands import Command, refused


def picture(path: Path, value: int, size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Twelve pictures of two classes, one of them twice, one broken, one of another size and transparent."""
    home = tmp_path / "pets"
    for number in range(6):
        picture(home / "train" / "cat" / f"{number}.png", 10 * number)
        picture(home / "train" / "dog" / f"{number}.png", 10 * number + 5)
    picture(home / "test" / "cat" / "7.png", 200)
    picture(home / "test" / "dog" / "0.png", 5)
    Image.new("RGBA", (9, 9)).save(home / "train" / "dog" / "clear.png")
    whole = (home / "train" / "cat" / "3.png").read_bytes()
    (home / "train" / "cat" / "3.png").write_bytes(whole[:-30])
    return home


def test_a_survey_says_what_there_is(command: Command, pets: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    status, out, _ = command("data", pets, "--sheet", sheet)
    assert status == 0
    for words in (
        "14 pictures in class folders",
        "3x8x12 (13), 3x9x9 (1)",
        "2: cat (6), dog (8)",
        "2 that are never trained on",
        "1 that are in the data before, such as test/dog/0.png and train/dog/0.png",
        "1 have transparency",
        "sides differ",
        "1 training pictures are in the test split too",
        "left out    1, which",
        "3.png cannot be read as an image",
        str(sheet),
    ):
        assert words in out, words
    assert Image.open(sheet).width > 100


def test_json_is_complete(command: Command, pets: Path) -> None:
    status, out, _ = command("data", pets, "--json")
    found = json.loads(out)
    assert status == 0 and found["modality"] == "image" and found["count"] == 14
    assert found["shapes"] == [{"shape": [3, 8, 12], "count": 13}, {"shape": [3, 9, 9], "count": 1}]
    assert found["classes"] == ["cat", "dog"] and found["members"] == [6, 8] and found["test"] == 2
    assert found["left_out"][0]["name"].endswith("3.png") and len(found["duplicates"]) == 1
    quick = json.loads(command("data", pets, "--json", "--quick")[1])
    assert quick["count"] == 15 and quick["duplicates"] == [] and quick["left_out"] == []


def test_a_survey_of_arrays(command: Command, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 7), dtype=np.uint8)
    captions = ["a", "b", "c", "d", "e", "a"]
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 1, 0, 1, 0, 1], class_names=["x", "y"], captions=captions)
    sheet = tmp_path / "sheet.png"
    status, out, _ = command("data", tmp_path / "x.npz", "--sheet", sheet)
    assert status == 0 and "6 pictures in arrays" in out and "1x5x7 (6)" in out and "6, of which 5 differ" in out
    assert "2: x (3), y (3)" in out and sheet.is_file()


def test_prepared_pictures_are_the_same_data(command: Command, pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, shown, _ = command("prepare", pets, out, "--size", 4)
    assert status == 0 and "3.png cannot be read" in shown
    files = sorted(out.rglob("*.png"))
    assert len(files) == 14 and {Image.open(file).size for file in files} == {(6, 4), (4, 4)}
    before, after = open_parts(pets, 4), open_parts(out, 4)
    assert after.classes == before.classes and after.left_out == () and len(after.held_out) == 2
    for one, other in ((before.train, after.train), (before.held_out, after.held_out)):
        first, second = one.get(range(len(one))), other.get(range(len(other)))
        pixels = [
            sorted(zip(batch["x"][:, 0, 0, 0].tolist(), batch["label"].tolist(), strict=True))
            for batch in (first, second)
        ]
        assert pixels[0] == pixels[1]


def test_preparing_goes_on_where_it_was(command: Command, pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command("prepare", pets, out)[0] == 0
    table = (out / "metadata.csv").read_text()
    files = sorted(out.rglob("*.png"))
    files[3].unlink()
    (out / "metadata.csv").unlink()
    times = {file: file.stat().st_mtime_ns for file in files if file.exists()}
    assert command("prepare", pets, out)[0] == 0
    assert files[3].is_file() and (out / "metadata.csv").read_text() == table
    assert times == {file: file.stat().st_mtime_ns for file in times}
    refused(command("prepare", pets, out, "--size", 4), "prepared from something else")
    refused(command("prepare", pets, pets / "out"), "lies in the data")
    refused(command("prepare", pets, tmp_path), "was not prepared here")


def test_what_is_no_data_is_refused(command: Command, tmp_path: Path) -> None:
    refused(command("data", tmp_path / "nowhere"), "does not exist")
    (tmp_path / "a.xyz").write_text("x")
    refused(command("data", tmp_path), "nothing that is known")
    refused(command("prepare", tmp_path, tmp_path / "out"), "nothing that is known")
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 4, 4), np.uint8))
    refused(command("prepare", tmp_path / "x.npz", tmp_path / "out"), "needs no preparation")
    refused(command("data", tmp_path / "x.npz", "--sheet", tmp_path / "sheet.jpg"), "ends in .png")
