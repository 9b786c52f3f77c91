"""Tar shards: any example by its number, the same as from the files themselves, and every kind of damage named."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.dataset import DataError
from core.data.order import BatchSharding, OrderedDataset, stream
from core.data.shards import braces, open_shards
from image.folder import SHARDED, open_source
from image.source import PictureFiles

COUNT = 11


def png(number: int, kind: str = "png") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (10 + number, 14, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def tar(path: Path, members: Mapping[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same eleven pictures as files in "plain" and as three shards in "shards"."""
    home = tmp_path_factory.mktemp("data")
    (home / "plain").mkdir()
    (home / "shards").mkdir()
    members: dict[str, bytes] = {}
    for number in range(COUNT):
        name, words = f"{number:03d}", f"picture {number}, ä"
        (home / "plain" / f"{name}.png").write_bytes(png(number))
        (home / "plain" / f"{name}.txt").write_text(words, encoding="utf-8")
        caption = {f"{name}.json": json.dumps({"caption": words}).encode()} if number % 2 else {}
        members |= {f"./{name}.png": png(number), **(caption or {f"./{name}.txt": words.encode()})}
        members |= {f"./{name}.seg.cls": b"7"}
        members = {key.removeprefix("./") if number > 7 else key: value for key, value in members.items()}
        if number in (3, 7, COUNT - 1):
            tar(home / "shards" / f"a-{number:03d}.tar", members)
            members = {}
    return home


def test_shards_are_the_folder_in_any_order(folder: Path) -> None:
    plain, packed = (PictureFiles(open_source(folder / name), 8) for name in ("plain", "shards"))
    assert len(packed) == COUNT
    rows = [10, 0, 7, 3, 4, 8, 1, 9, 2, 5, 6]
    first, second = plain.get(rows), packed.get(rows)
    assert first["caption"] == second["caption"]
    for name in ("x", "size", "crop", "target"):
        assert torch.equal(first[name], second[name])


def test_a_run_over_shards_starts_anywhere(folder: Path) -> None:
    data = OrderedDataset(PictureFiles(open_source(folder / "shards"), 8, random_crop=True), seed=1)
    whole = list(islice(stream(data, BatchSharding(4), 0), 6))
    for step, (mine,) in enumerate(islice(stream(data, BatchSharding(4), 3, workers=2), 3), start=3):
        assert torch.equal(mine["x"], whole[step][0]["x"]) and mine["caption"] == whole[step][0]["caption"]


def test_patterns_name_shards(folder: Path) -> None:
    shards = folder / "shards"
    for pattern, count in (("a-{003,010}.tar", 7), ("a-*.tar", COUNT), ("a-{003..003}.tar", 4), ("{a,a}-007.tar", 8)):
        assert len(open_shards(shards / pattern, SHARDED)) == count
    assert list(braces("x{08..11}/{a,b}")) == [f"x{n}/{c}" for n in ("08", "09", "10", "11") for c in "ab"]
    with pytest.raises(DataError, match=r"a-004.tar does not exist"):
        open_shards(shards / "a-{003..004}.tar", SHARDED)
    with pytest.raises(DataError, match="no file matches"):
        PictureFiles(open_source(shards / "b-*.tar"), 8)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_take_a_header_more(tmp_path: Path, kind: int) -> None:
    long = "deep/" + "ä" * 120
    path = tar(
        tmp_path / "a.tar", {f"{long}.png": png(2), f"{long}.txt": b"long", "b.png": png(0), "b.txt": b"b"}, kind
    )
    data = PictureFiles(open_source(path), 8)
    assert data.get([1, 0])["caption"] == ["b", "long"] and data.get([1, 0])["size"].tolist() == [[10, 14], [12, 14]]


def test_only_headers_are_read_when_shards_are_opened(tmp_path: Path) -> None:
    content = bytearray(tar(tmp_path / "a.tar", {"a.png": png(0), "a.txt": b"hello"}).read_bytes())
    at = content.index(b"hello")
    content[at : at + 5] = b"later"
    content[512:600] = bytes(88)
    (tmp_path / "a.tar").write_bytes(content)
    data = PictureFiles(open_source(tmp_path / "a.tar"), 8)
    assert data.source.caption(0) == "later"
    with pytest.raises(DataError, match=r"a.png in .*a.tar cannot be read as an image"):
        data.get([0])


def test_a_shard_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Also where tarfile itself sees nothing wrong: between two members, and within a header."""
    whole = tar(tmp_path / "whole.tar", {"a.png": b"x" * 700, "a.txt": b"a", "b.png": b"x" * 30, "b.txt": b"b"})
    content = whole.read_bytes()
    end = 512 * (1 + 2 + 2 + 2 + 2)
    assert len(open_shards(whole, SHARDED)) == 2
    for length in range(0, end + 1, 128):
        (tmp_path / "cut.tar").write_bytes(content[:length])
        with pytest.raises(DataError, match="cut short"):
            open_shards(tmp_path / "cut.tar", SHARDED)
    damaged = bytearray(content)
    damaged[512 * 5 + 3] ^= 0xFF  # in the third header
    (tmp_path / "cut.tar").write_bytes(damaged)
    with pytest.raises(DataError, match="cut short or damaged"):
        open_shards(tmp_path / "cut.tar", SHARDED)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "holds no captioned pictures"),
        ({"a.png": b"", "b.png": b"", "b.txt": b"b"}, "a.png in .* has no caption: put a.txt"),
        ({"a.txt": b"a", "b.png": b""}, "holds 0 pictures for 'a'"),
        ({"a.png": b"", "a.jpg": b"", "a.txt": b"a"}, "holds 2 pictures for 'a'"),
        ({"a.png": b"", "a.PNG": b"", "a.txt": b"a"}, "holds a.png twice"),
    ],
)
def test_bad_shards_are_refused(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_shards(tar(tmp_path / "a.tar", members), SHARDED)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n", "a.txt in .* holds no caption"),
        ("a.txt", b"\xff\xff", "a.txt in .* is not UTF-8"),
        ("a.json", b"{", "a.json in .* is not a JSON object"),
        ("a.json", b"[1]", "is not a JSON object"),
        ("a.json", b'{"caption": 3}', "holds no caption"),
        ("a.json", b'{"title": "a"}', "holds no caption"),
    ],
)
def test_bad_captions_are_named_when_they_are_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    data = PictureFiles(open_source(tar(tmp_path / "a.tar", {"a.png": png(0), name: content})), 8)
    with pytest.raises(DataError, match=message):
        data.get([0])


def test_compressed_shards_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"), pytest.raises(DataError, match="uncompressed"):
        PictureFiles(open_source(tmp_path / "a.tar.gz"), 8)
