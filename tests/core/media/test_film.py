"""Films open again with every frame, and are whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.media.film import write_film


def frames(count: int = 3) -> Iterator[Image.Image]:
    for number in range(count):
        yield Image.fromarray(np.full((17, 32, 3), 80 * number, dtype=np.uint8))


def levels(path: Path) -> list[int]:
    if path.suffix == ".gif":
        with Image.open(path) as file:
            found = []
            for number in range(file.n_frames):
                file.seek(number)
                found.append(int(np.asarray(file.convert("L"))[3, 3]))
        return found
    av = pytest.importorskip("av")
    with av.open(str(path)) as file:
        return [int(np.asarray(frame.to_image().convert("L"))[3, 3]) for frame in file.decode(video=0)]


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_films_open_with_their_frames(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "folder" / f"a{suffix}"
    write_film(path, frames(), 20.0)
    assert np.allclose(levels(path), [0, 80, 160], atol=4)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_film_that_fails_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("before")

    def broken() -> Iterator[Image.Image]:
        yield from frames(2)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_film(path, broken(), 20.0)
    with pytest.raises(ValueError, match="at least one frame"):
        write_film(path, iter(()), 20.0)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.gif or \.mp4, not '\.avi'"):
        write_film(tmp_path / "a.avi", frames(), 20.0)
    assert not list(tmp_path.iterdir())
