"""Pictures of every kind that people have are opened in one place, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.dataset import DataError
from image.data import Parts, Subset, digits, open_parts, split


def write(path: Path, size: tuple[int, int] = (8, 8), value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, value)).save(path)


def everything(parts: Parts) -> dict[str, list[object]]:
    """What both parts hold, with the value of the first pixel in the place of the picture."""
    found: dict[str, list[object]] = {}
    for part in (parts.train, parts.held_out):
        batch = part.get(range(len(part)))
        values = {**batch, "x": ((batch["x"][:, 0, 0, 0] + 1) * 127.5).round().int()}
        for name, rows in values.items():
            found.setdefault(name, []).extend(rows if isinstance(rows, list) else rows.tolist())
    return found


def test_digits_are_the_real_ones_and_the_parts_do_not_overlap() -> None:
    train, held_out = digits()
    assert (len(train), len(held_out), train.shape) == (1297, 500, (1, 8, 8))
    assert train.images.min() == -1 and train.images.max() == 1
    both = torch.cat([train.images, held_out.images]).flatten(1)
    assert len(both.unique(dim=0)) > 1790
    assert train.labels is not None
    assert torch.equal(train.get([3, 5])["label"], train.labels[[3, 5]])


def test_class_folders_give_labels_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / str(number) / "a.png", value=20 * number)
    parts = open_parts(tmp_path, 8)
    found = everything(parts)
    assert parts.classes == tuple(map(str, range(12)))
    assert sorted(zip(found["label"], found["x"])) == [(number, 20 * number) for number in range(12)]


@pytest.mark.parametrize("layout", ["{part}/{name}/deeper/{file}", "data/{part}/{name}/{file}", "{name}/{part}/{file}"])
def test_a_given_test_split_is_the_held_out_part(tmp_path: Path, layout: str) -> None:
    for number, (part, name) in enumerate([("train", "cat"), ("train", "dog"), ("test", "cat"), ("Train", "dog")]):
        write(tmp_path / layout.format(part=part, name=name, file=f"{number}.png"), value=number)
    parts = open_parts(tmp_path, 8)
    assert parts.classes == ("cat", "dog") and parts.captioned is False
    assert [round(float(x + 1) * 127.5) for x in parts.held_out.get(range(1))["x"][:, 0, 0, 0]] == [2]
    assert len(parts.train) == 3 and sorted(parts.train.get(range(3))["label"].tolist()) == [0, 1, 1]


def test_folders_called_train_beside_others_are_classes(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "plane", "car")):
        write(tmp_path / name / "a.png", value=number)
        write(tmp_path / name / "b.png", value=number + 10)
    assert open_parts(tmp_path, 8).classes == ("car", "plane", "train")


def test_a_folder_is_cropped_in_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, 2:6] = 255
    for name in "ab":
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        pixels[0, 2] -= 1  # or they were the same
    assert float(open_parts(tmp_path, 4).train.get([0])["x"].min()) > 0.98


def test_rectangles_are_kept(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"{number}.png", (100, 75), number)
    assert open_parts(tmp_path, (75, 100)).train.get([0])["x"].shape == (1, 3, 75, 100)


def test_pictures_are_upright_opaque_and_of_eight_bits_with_and_without_captions(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[4:] = (0, 0, 0, 255)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(clear).save(tmp_path / "b.png")
    found = {name: open_parts(tmp_path, 8, channels) for name, channels in (("grey", 1), ("colour", 3))}
    for parts in found.values():
        pictures = [part.get([0])["x"][0, 0] for part in (parts.train, parts.held_out)]
        slope, half = sorted(pictures, key=lambda x: float(x[0, 0]))
        assert torch.equal(((slope + 1) * 127.5).round().int().flatten(), torch.from_numpy(ramp >> 8).int().flatten())
        assert bool((half[:4] == 1).all()) and bool((half[4:] == -1).all())


def test_a_few_broken_pictures_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(12):
        write(tmp_path / f"{number:02d}.png", value=number)
    (tmp_path / "header.png").write_bytes(b"\x89PNG nonsense")
    whole = (tmp_path / "03.png").read_bytes()
    (tmp_path / "03.png").write_bytes(whole[:-30])  # sound up to its pixels
    parts = open_parts(tmp_path, 8)
    assert len(parts.train) + len(parts.held_out) == 11
    assert [Path(each.name).name for each in parts.left_out] == ["03.png", "header.png"]
    assert "2 of 13 are left out, the first because" in capsys.readouterr().err
    for number in range(4, 8):
        (tmp_path / f"{number:02d}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"03.png cannot be read .* \(and 5 more"):
        open_parts(tmp_path, 8)


def test_pictures_that_are_the_same_lie_on_one_side(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path / f"{number:02d}.png", value=number // 2)
    parts = open_parts(tmp_path, 8)
    sides = [set(part.get(range(len(part)))["x"][:, 0, 0, 0].tolist()) for part in (parts.train, parts.held_out)]
    assert not sides[0] & sides[1] and len(parts.held_out) == 4


def test_what_a_test_split_holds_too_is_not_trained_on(tmp_path: Path) -> None:
    images = np.arange(20, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    np.savez(tmp_path / "x.npz", x_train=images, x_test=images[5:7])
    parts = open_parts(tmp_path / "x.npz", 4, 1)
    assert (len(parts.train), len(parts.held_out)) == (18, 2)
    assert not set(parts.train.get(range(18))["x"][:, 0, 0, 0].tolist()) & set(
        parts.held_out.get(range(2))["x"][:, 0, 0, 0].tolist()
    )


def test_pictures_that_do_not_fit_into_memory_stay_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        write(tmp_path / "cat" / f"{number}.png", value=10 * number)
        write(tmp_path / "dog" / f"{number}.png", value=10 * number + 5)
    in_memory = open_parts(tmp_path, 8)
    monkeypatch.setattr("image.data.MEMORY", 0)
    files = open_parts(tmp_path, 8)
    assert isinstance(in_memory.train, Subset) and not isinstance(files.train, Subset)
    for one, other in ((in_memory.train, files.train), (in_memory.held_out, files.held_out)):
        first, second = one.get(range(len(one))), other.get(range(len(other)))
        assert first.keys() == second.keys()
        assert all(torch.allclose(first[name].float(), second[name].float()) for name in first)


def test_split_is_a_partition() -> None:
    train, held_out = split(digits()[0], 0.2)
    assert len(held_out) == 259
    assert sorted(train.indices + held_out.indices) == list(range(1297))
    labels = train.labels
    assert labels is not None and torch.equal(train.get([0])["label"], labels[:1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "holds no images"),
        (lambda p: (p / "notes.txt").write_text("hello"), "holds no images"),
        (lambda p: (p / "broken.png").write_bytes(b"\x89PNG nonsense"), "cannot be read"),
        (lambda p: write(p / "a.png"), "at least two"),
        (lambda p: (write(p / "a.png"), write(p / "b.png")), "one group"),
    ],
)
def test_bad_folders_are_refused(tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        open_parts(tmp_path, 8)


def test_missing_files_and_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_parts(tmp_path / "nowhere", 8)
    with pytest.raises(DataError, match="give a size"):
        open_parts(tmp_path, 0)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match="readable"):
        open_parts(tmp_path / "cut.npz", 8)
