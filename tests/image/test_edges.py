"""Edges against closed forms, and control pictures from files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from image.data import DataError, ImageArray
from image.edges import WithEdges, edges, read_control


def test_steps_and_ramps() -> None:
    """A step of contrast c is c on both sides; a ramp of slope s a pixel is 2 s; a flat picture has no edges."""
    x = torch.full((1, 3, 6, 8), -1.0)
    x[:, 1, :, 4:] = 0.0  # from 0 to 1/2 of brightness, in one channel
    wanted = torch.zeros(1, 1, 6, 8)
    wanted[..., 3:5] = 0.5
    torch.testing.assert_close(edges(x), wanted)
    torch.testing.assert_close(edges(x.transpose(2, 3)), wanted.transpose(2, 3))
    ramp = (torch.arange(8.0) * 0.1 * 2 - 1).expand(1, 1, 6, 8)
    torch.testing.assert_close(edges(ramp)[..., 1:-1], torch.full((1, 1, 6, 6), 0.2))
    assert not edges(torch.full((1, 3, 4, 4), 0.3)).any()


def test_data_with_their_edges() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = WithEdges(ImageArray(images)).get([2, 0])
    assert torch.equal(batch["x"], images[[2, 0]]) and batch["control"].dtype == torch.uint8
    torch.testing.assert_close(batch["control"] / 255, edges(images[[2, 0]]), rtol=0, atol=0.5 / 255 + 1e-6)


def test_pictures_of_files(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    picture.paste((255, 0, 0), (4, 0, 8, 8))
    picture.save(tmp_path / "a.png")
    ready, made = (read_control(tmp_path / "a.png", ready, 8, 8)["control"] for ready in (True, False))
    assert ready.shape == (1, 3, 8, 8) and ready[0, 0, 0].tolist() == [0] * 4 + [255] * 4 and not ready[:, 1:].any()
    assert made[0, 0, 0].tolist() == [0, 0, 0, 255, 255, 0, 0, 0]
    assert read_control(tmp_path / "a.png", True, 4, 16)["control"].shape == (1, 3, 4, 16)
    (tmp_path / "b.png").write_text("no picture")
    for name, message in (("gone.png", "does not exist"), ("b.png", "cannot be read")):
        with pytest.raises(DataError, match=message):
            read_control(tmp_path / name, False, 8, 8)
