"""Captioned data that cannot be used: one sentence through the command, exit status 2, and no run left behind."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import Command, refused

QUIET = ["--hold-out", "0", "--show", "0", "--cpu"]
TEXT = ["train", "ldm", "--preset", "small", "--size", "16", "--width", "32", *QUIET]
CODE = ["train", "autoencoder", "--preset", "small", "--size", "16", *QUIET]


def png(number: int = 0) -> bytes:
    values = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "png")
    return file.getvalue()


def folder(path: Path, count: int = 4) -> Path:
    path.mkdir()
    for number in range(count):
        (path / f"{number}.png").write_bytes(png(number))
        (path / f"{number}.txt").write_text(f"picture {number}")
    return path


def tar(path: Path, count: int = 4) -> Path:
    with tarfile.open(path, "w") as file:
        for number in range(count):
            for name, content in ((f"{number}.png", png(number)), (f"{number}.txt", b"words")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


def nothing(home: Path) -> Path:
    (home / "data").mkdir()
    return home / "data"


def empty_table(home: Path) -> Path:
    made = folder(home / "data")
    for text in made.glob("*.txt"):
        text.unlink()
    (made / "metadata.jsonl").write_text("")
    return made


def empty_text(home: Path) -> Path:
    made = folder(home / "data")
    for number in (2, 3):
        (made / f"{number}.txt").write_text(" \n")
    return made


def no_picture(home: Path) -> Path:
    made = folder(home / "data")
    for number in (2, 3):
        (made / f"{number}.png").write_bytes(b"this is no picture")
    return made


def cut_shard(home: Path) -> Path:
    path = tar(home / "a.tar")
    path.write_bytes(path.read_bytes()[:1500])
    return path


def empty_shard(home: Path) -> Path:
    return tar(home / "a.tar", count=0)


def one(home: Path) -> Path:
    return folder(home / "data", count=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nothing, ["data", "holds no images"]),
        (empty_table, ["0.png", "is not in metadata.jsonl", "3 more"]),
        (empty_text, ["2.txt", "is empty"]),
        (no_picture, ["2.png", "cannot be read as an image"]),
        (cut_shard, ["a.tar", "cut"]),
        (empty_shard, ["a.tar", "holds no captioned pictures"]),
        (one, ["at least two"]),
        (lambda home: home / "gone", ["gone", "does not exist"]),
        (lambda home: home / "gone-{0..3}.tar", ["gone-0.tar", "does not exist"]),
    ],
    ids=["empty folder", "empty table", "empty text", "no picture", "cut", "empty shard", "one", "gone", "no shard"],
)
@pytest.mark.parametrize("recipe", [TEXT, CODE], ids=["ldm", "autoencoder"])
def test_captioned_data_that_cannot_be_used(
    command: Command, tmp_path: Path, recipe: list[str], make: Callable[[Path], Path], words: list[str]
) -> None:
    out = tmp_path / "run"
    refused(command(*recipe, "--data", make(tmp_path), "--out", out), *words)
    assert not out.exists() or not list(out.rglob("*.safetensors"))


def test_a_picture_that_breaks_in_its_middle_is_named_when_it_is_met(command: Command, tmp_path: Path) -> None:
    """Its header is sound, so that only decoding it tells."""
    data, out = folder(tmp_path / "data"), tmp_path / "run"
    for file in data.glob("*.png"):
        file.write_bytes(file.read_bytes()[:300])
    status, _, err = command(*CODE, "--data", data, "--out", out)
    assert status == 2 and "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("langevin: ") and "cannot be read as an image" in last
    assert not list(out.rglob("*.safetensors*"))
