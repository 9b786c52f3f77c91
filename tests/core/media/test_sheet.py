"""Sheets hold the pixels they were given and the settings that made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.media.sheet import captioned_page, picture, read_settings, save_sheet, tile
from core.provenance import FORMAT


def test_tiles_keep_every_pixel() -> None:
    images = torch.rand(5, 3, 4, 6) * 2 - 1
    sheet = tile(images, columns=3)
    assert sheet.shape == (3, 11, 22)
    assert torch.equal(sheet[:, 6:10, 8:14], images[4])


def test_levels_are_rounded_to_nearest() -> None:
    image = torch.tensor([[[-1.0, 0.0, 1.0, 5.0]]])
    assert np.asarray(picture(image)).tolist() == [[0, 128, 255, 255]]


def test_captions_are_beneath_and_cut_where_they_are_long() -> None:
    images = torch.zeros(2, 1, 64, 64)
    short, long = captioned_page(images, ["a cat", "a dog"]), captioned_page(images, ["a cat", "red cat " * 5000])
    assert short.width == long.width and short.height < long.height < 2 * short.height


def test_settings_come_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "sheet.png"
    save_sheet(path, torch.zeros(4, 1, 8, 8), {"seed": 3, "sampler": "heun"})
    assert read_settings(path) == {"seed": 3, "sampler": "heun", "format": FORMAT}
    assert [file.name for file in path.parent.iterdir()] == ["sheet.png"]


def test_foreign_pictures_are_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (("plain.png", "no settings"), ("text.png", "not a readable PNG")):
        with pytest.raises(ValueError, match=message):
            read_settings(tmp_path / name)
