"""Drawing: things are where a camera would see them, and files open."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from motion.drawing import BACK, FRONT, LEFT, PAPER, RIGHT, Camera, draw_pose, film, sheet, write_film
from motion.features import canonical
from tests.support.poses import wander


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return canonical(wander(8, turn=0.0))


def test_a_camera_sees_left_and_up_where_they_are() -> None:
    face = Camera(0.0, above=0.0)
    points = np.array([[0.0, 1, 0], [0.5, 1, 0], [0, 1.5, 0], [0, 1, 1]])
    places, far = face.project(points, points[0], 100)
    assert places[0] == pytest.approx([50, 50])
    assert places[1][0] > 50 and places[1][1] == pytest.approx(50)  # the left of who faces us is at our right
    assert places[2][1] < 50 and places[2][0] == pytest.approx(50)
    assert far == pytest.approx([4.6, 4.6, 4.6, 3.6])
    behind, _ = Camera(180.0, above=0.0).project(points, points[0], 100)
    assert behind[1][0] < 50


def test_sides_have_their_colours(clip: torch.Tensor) -> None:
    def mean_column(camera: Camera, ink: tuple[int, int, int]) -> float:
        picture = np.asarray(draw_pose(clip.numpy(), 0, camera, 120)).astype(int)
        return float(np.argwhere(np.abs(picture - np.array(ink)).sum(-1) < 60)[:, 1].mean())

    assert mean_column(FRONT, LEFT) > mean_column(FRONT, RIGHT)
    assert mean_column(BACK, LEFT) < mean_column(BACK, RIGHT)


def test_films_open_with_all_their_frames(tmp_path: Path, clip: torch.Tensor) -> None:
    write_film(tmp_path / "a.gif", [clip, clip[:3]], 20.0, ["someone wanders", "less"], views=(FRONT, BACK))
    with Image.open(tmp_path / "a.gif") as gif:
        assert len(list(ImageSequence.Iterator(gif))) == 8 and gif.info["duration"] == 50
        assert gif.size == (480, 532)
    write_film(tmp_path / "a.mp4", [clip], 20.0, ["someone wanders"], views=(FRONT,))
    with av.open(str(tmp_path / "a.mp4")) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        assert len(frames) == 8 and float(file.streams.video[0].average_rate or 0) == 20
    wanted = np.asarray(list(film(clip, views=(FRONT,), caption="someone wanders"))[3]).astype(int)
    assert np.abs(frames[3].astype(int) - wanted[: frames[3].shape[0]]).mean() < 6
    with pytest.raises(ValueError, match=r"\.gif or \.mp4"):
        write_film(tmp_path / "a.avi", [clip], 20.0, [""])


def test_a_sheet_has_a_row_for_each_clip(clip: torch.Tensor) -> None:
    page = sheet(
        [clip, clip[:3]], ["one", "two, with so long a description that it does not fit at all" * 3], columns=5, size=60
    )
    assert page.size == (300, 2 * 82)
    drawn = np.abs(np.asarray(page).astype(int) - np.array(PAPER)).sum(-1) > 100
    for row in range(2):
        for column in range(5):
            assert drawn[row * 82 + 22 : row * 82 + 82, column * 60 : column * 60 + 60].sum() > 20
