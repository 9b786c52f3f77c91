"""Captioned pictures in folders are read as they are, or refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.dataset import DataError
from core.data.order import OrderedDataset
from core.data.source import split_source
from core.media.picture import resize_and_crop
from image.folder import open_source
from image.source import PictureFiles, size_of


def write(path: Path, size: tuple[int, int] = (8, 8), value: int = 255) -> None:
    """A magenta image, size as width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, value)).save(path)


def jsonl(folder: Path, *rows: dict[str, object]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")


def gradient(height: int, width: int) -> Image.Image:
    """Red grows downwards, green to the right: a pixel says where it was."""
    down, across = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return Image.fromarray(np.stack([down, across, 0 * down], axis=-1).astype(np.uint8))


def test_all_three_places_of_captions_say_the_same(tmp_path: Path) -> None:
    written_captions = {"a.png": "a red 7", "deep/b.png": 'two, "quoted" words', "c.png": "ein grünes\u2028Ä"}
    for kind in ("jsonl", "csv", "beside"):
        for number, name in enumerate(written_captions):
            write(tmp_path / kind / name, value=100 * number)
    jsonl(tmp_path / "jsonl", *({"file_name": name, "text": text} for name, text in reversed(written_captions.items())))
    lines = [
        "\ufefffile_name,caption",
        *(name + ',"' + text.replace('"', '""') + '"' for name, text in written_captions.items()),
    ]
    (tmp_path / "csv" / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    for name, text in written_captions.items():
        (tmp_path / "beside" / name).with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    for kind in ("jsonl", "csv", "beside"):
        data = PictureFiles(open_source(tmp_path / kind), 8)
        batch = data.get([2, 0, 1])
        assert batch["caption"] == [
            written_captions["deep/b.png"],
            written_captions["a.png"],
            written_captions["c.png"],
        ]
        assert torch.allclose(batch["x"][:, 0, 0, 0], torch.tensor([100.0, 0, 200]) / 127.5 - 1)


def test_the_picture_covers_its_target_and_the_crop_is_reported(tmp_path: Path) -> None:
    gradient(48, 96).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a slope")
    batch = PictureFiles(open_source(tmp_path), 48).get([0])
    x = (batch["x"][0] + 1) * 127.5
    assert batch["size"].tolist() == [[48, 96]] and batch["target"].tolist() == [[48, 48]]
    assert batch["crop"].tolist() == [[0, 24]]
    assert torch.allclose(x[0, :, 0], torch.arange(48.0), atol=1e-3)
    assert torch.allclose(x[1, 0], torch.arange(24.0, 72.0), atol=1e-3)
    half = PictureFiles(open_source(tmp_path), (24, 40)).get([0])
    # Scaled by a half to 24 x 48, then 4 columns cut off on the left: pixel i lies between columns 2i + 8 and 2i + 9.
    assert half["x"].shape == (1, 3, 24, 40) and half["crop"].tolist() == [[0, 4]]
    inner = ((half["x"][0, 1, 0] + 1) * 127.5)[4:-4]
    assert torch.allclose(inner, 2 * torch.arange(4.0, 36) + 8.5, atol=1)


def test_random_crops_are_a_function_of_the_position(tmp_path: Path) -> None:
    gradient(16, 40).save(tmp_path / "a.png")
    gradient(40, 16).save(tmp_path / "b.png")
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    data = OrderedDataset(PictureFiles(open_source(tmp_path), 16, random_crop=True), seed=3)
    whole, again = data[range(40)], data[range(10, 14)]
    for name in ("x", "crop"):
        assert torch.equal(whole[name][10:14], again[name])
    x = ((whole["x"] + 1) * 127.5).round()
    assert torch.equal(x[:, :2, 0, 0], whole["crop"])  # the first pixel is where the crop says it is
    assert len(whole["crop"][:, 1].unique()) > 8 and 20 <= whole["crop"].max() <= 24
    assert not torch.equal(OrderedDataset(data.data, seed=4)[range(40)]["crop"], whole["crop"])


def test_frames_reach_both_edges() -> None:
    picture = gradient(10, 13)
    assert [resize_and_crop(picture, (10, 10), (0.5, place))[1] for place in (0.0, 0.5, 0.9999)] == [
        (0, 0),
        (0, 2),
        (0, 3),
    ]


def test_pictures_are_upright_opaque_and_of_eight_bits(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # turn by 90 degrees to see it upright
    gradient(8, 16).save(tmp_path / "a.png", exif=turned)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "b.png")
    Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16)).save(tmp_path / "c.png")
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    source = open_source(tmp_path)
    assert size_of(source, 0) == (16, 8)
    batch = PictureFiles(source, (16, 8)).get([0, 1, 2])
    assert batch["size"].tolist() == [[16, 8], [8, 8], [8, 8]]
    assert torch.equal(((batch["x"][0] + 1) * 127.5).round()[1, :, 0], torch.arange(16.0))
    assert bool((batch["x"][1] == 1).all())
    assert bool(((batch["x"][2] + 1) * 127.5 == 128).all())
    assert PictureFiles(source, 8, channels=1).get([2])["x"].shape == (1, 1, 8, 8)


def test_a_source_is_divided_without_loss(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(str(number))
    train, held_out = split_source(open_source(tmp_path), 0.3)
    captions = [[part.caption(index) for index in range(len(part))] for part in (train, held_out)]
    assert len(captions[1]) == 3 and sorted(captions[0] + captions[1]) == [str(number) for number in range(10)]
    assert PictureFiles(held_out, 8).get([1])["caption"] == captions[1][1:2]
    assert held_out.name(1).endswith(f"{captions[1][1]}.png")


def say(folder: Path, text: bytes, name: str = "metadata.jsonl") -> None:
    write(folder / "a.png")
    (folder / name).write_bytes(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (p / "notes.txt").write_text("hello"), "holds no images"),
        (
            lambda p: (write(p / "b.png"), write(p / "c.png"), say(p, b"one", "a.txt")),
            r"b.png has no caption.*\(and 1 more",
        ),
        (lambda p: say(p, b" \n", "a.txt"), "a.txt is empty: write the caption of a.png"),
        (lambda p: say(p, b"\xff\xfe\x00k", "a.txt"), "a.txt is not UTF-8"),
        (
            lambda p: ((p / "b.txt").write_text("b"), (p / "b.png").write_bytes(b"\x89PNG not"), say(p, b"a", "a.txt")),
            "b.png cannot",
        ),
        (lambda p: say(p, b'{"file_name": "a.png", "text": ["a"]}'), "line 1, has no 'text'"),
        (lambda p: say(p, b'{"text": "a"}'), "line 1, has no 'file_name'"),
        (lambda p: say(p, b'{"file_name": "z.png", "text": "a"}'), "line 1, is about z.png, which is no image"),
        (lambda p: say(p, b'\n{"file_name": "a.png", "text": "a"}\n' * 2), "line 4, is about a.png once more"),
        (lambda p: say(p, b'{"file_name": "a.png", "text": "a"'), "line 1, is not JSON"),
        (lambda p: say(p, b"[1]"), "line 1, is not a JSON object"),
        (lambda p: say(p, b"\xe4"), "metadata.jsonl is not UTF-8"),
        (lambda p: say(p, b""), "a.png is not in metadata.jsonl: give it a line"),
        (lambda p: say(p, b'file_name,text\na.png,"open', "metadata.csv"), "is not CSV"),
        (lambda p: say(p, b"file_name,text\na.png", "metadata.csv"), "line 2, has no 'text'"),
        (lambda p: (say(p, b"", "metadata.csv"), say(p, b"")), "has both"),
    ],
)
def test_bad_folders_are_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        PictureFiles(open_source(tmp_path), 8)


def test_what_breaks_later_is_named_too(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "cut.txt").write_text("half of it")
    data = PictureFiles(open_source(tmp_path), 8)
    with pytest.raises(DataError, match=r"cut.png cannot be read as an image: remove it"):
        data.get([0])
    with pytest.raises(DataError, match="does not exist"):
        PictureFiles(open_source(tmp_path / "nowhere"), 8)
    with pytest.raises(DataError, match="neither a folder"):
        PictureFiles(open_source(tmp_path / "cut.png"), 8)
    with pytest.raises(DataError, match="give a size"):
        PictureFiles(open_source(tmp_path), 0)
    with pytest.raises(DataError, match="at least two"):
        split_source(data.source)
