"""Images are read as they are, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.dataset import DataError
from image.data import digits, open_images, split


def write(path: Path, size: tuple[int, int] = (8, 8), value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, value)).save(path)


def test_digits_are_the_real_ones_and_the_parts_do_not_overlap() -> None:
    train, held_out = digits()
    assert (len(train), len(held_out), train.shape) == (1297, 500, (1, 8, 8))
    assert train.images.min() == -1 and train.images.max() == 1
    both = torch.cat([train.images, held_out.images]).flatten(1)
    assert len(both.unique(dim=0)) > 1790
    assert torch.equal(train.get([3, 5])["label"], train.labels[[3, 5]])


def test_class_folders_give_labels(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "a.png", value=0)
    write(tmp_path / "dog" / "b.png")
    data = open_images(tmp_path)
    batch = data.get([1, 0])
    assert batch["label"].tolist() == [1, 0]
    assert batch["x"][0, :, 0, 0].tolist() == [1, -1, 1]
    assert batch["x"][1, :, 0, 0].tolist() == [-1, -1, -1]


def test_folder_is_cropped_in_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, 2:6] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert torch.equal(open_images(tmp_path, size=4).get([0])["x"], torch.ones(1, 3, 4, 4))


def test_npz_in_both_channel_orders_and_ranges(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "last.npz", images=images, labels=np.arange(5))
    np.savez(tmp_path / "first.npz", images=images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    last, first = open_images(tmp_path / "last.npz"), open_images(tmp_path / "first.npz")
    assert torch.allclose(last.get(range(5))["x"], first.get(range(5))["x"], atol=1e-6)
    assert last.get([4])["label"].item() == 4


def test_latents_keep_their_range_and_channels(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(0, 3, (5, 4, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", latents=latents, labels=np.arange(5))
    data = open_images(tmp_path / "x.npz", 6, 4)
    assert np.array_equal(data.get([2])["x"].numpy(), latents[2:3]) and data.get([2])["label"].tolist() == [2]
    np.savez(tmp_path / "x.npz", latents=latents * np.inf)
    with pytest.raises(DataError, match="finite"):
        open_images(tmp_path / "x.npz")


def test_split_is_a_partition() -> None:
    train, held_out = split(digits()[0], 0.2)
    assert len(held_out) == 259
    assert sorted(train.indices + held_out.indices) == list(range(1297))
    assert torch.equal(train.get([0])["label"], train.labels[:1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "holds no images"),
        (lambda p: (write(p / "a.png"), write(p / "b.png", (9, 9))), "differ in size"),
        (lambda p: write(p / "a.png", (8, 4)), "crop"),
        (lambda p: (p / "notes.txt").write_text("hello"), "not an image"),
        (lambda p: (p / "broken.png").write_bytes(b"\x89PNG nonsense"), "cannot be read"),
    ],
)
def test_bad_folders_are_refused(tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": np.zeros((2, 4, 4))}, "no array named 'images'"),
        ({"images": np.full((2, 4, 4), np.nan, dtype=np.float32)}, "NaN"),
        ({"images": np.full((2, 4, 4), 7.0)}, "outside"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)}, "one whole number"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "shape"),
        ({"images": np.array([{"a": 1}], dtype=object)}, "plain arrays"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_images(tmp_path / "x.npz")


def test_missing_and_truncated_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_images(tmp_path / "nowhere")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match="readable"):
        open_images(tmp_path / "cut.npz")
