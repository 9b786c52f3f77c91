"""Framed digits: what a batch says of size and crop is what was done to the picture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from image.captions import BACKGROUNDS, SIDE
from image.framed import RESOLUTIONS, ROOM, FramedDigits, framed_digits, original

COUNT = 120


@pytest.fixture(scope="module")
def framed() -> FramedDigits:
    return framed_digits(COUNT)[0]


def test_the_numbers_are_true(framed: FramedDigits) -> None:
    batch, plain = framed.get(range(COUNT)), framed.digits.get(range(COUNT))
    assert batch["caption"] == plain["caption"] and batch["target"].unique().tolist() == [SIDE]
    kinds = set()
    for scene, x, whole, size, crop in zip(
        batch["scene"], batch["x"], plain["x"], batch["size"].tolist(), batch["crop"].int().tolist()
    ):
        resolution = int(min(size))
        room = tuple(int(length) * SIDE // resolution - SIDE for length in size)
        assert resolution in RESOLUTIONS and sorted(room) in ([0, 0], [0, ROOM])
        assert all(0 <= cut <= more for cut, more in zip(crop, room))
        kinds.add((resolution, room, tuple(crop) == (0, 0)))
        if resolution == SIDE:  # sharp: the scene itself, moved up or left, and background behind it
            background = torch.tensor(BACKGROUNDS[scene.background]).view(3, 1, 1) * 2 - 1
            kept = whole[:, crop[0] :, crop[1] :]
            assert torch.equal(x[:, : kept.shape[1], : kept.shape[2]], kept)
            assert torch.equal(x[:, kept.shape[1] :], background.expand_as(x[:, kept.shape[1] :]))
            assert torch.equal(x[:, :, kept.shape[2] :], background.expand_as(x[:, :, kept.shape[2] :]))
    assert len({resolution for resolution, _, _ in kinds}) == len({room for _, room, _ in kinds}) == 3
    assert {whole for _, _, whole in kinds} == {True, False}


def test_small_originals_are_blurred(framed: FramedDigits) -> None:
    """What passed through 16 pixels is what 16 pixels can hold, scaled up; the rest of the detail is gone."""
    image = framed.digits.get([0])["x"][0]
    size, seen = original(image, (0.0, 0.0, 0.0), (0, 0), 16)
    small = F.interpolate(image[None], (16, 16), mode="bilinear", antialias=True)
    assert size == (16, 16) and torch.equal(seen, F.interpolate(small, (SIDE, SIDE), mode="bilinear")[0])
    detail = [float(picture.diff(dim=-1).square().mean()) for picture in (seen, image)]
    assert detail[0] < 0.7 * detail[1]


def test_a_picture_is_a_function_of_its_number(framed: FramedDigits) -> None:
    batch, alone = framed.get(range(20)), framed.get([7])
    for name in ("x", "size", "crop"):
        assert torch.equal(batch[name][[7]], alone[name])
