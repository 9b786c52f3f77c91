"""Arrays of pictures are read by their documented names, in any usual range, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.dataset import DataError
from image.arrays import cover, floats, in_channels, open_arrays
from image.data import open_parts

BYTES = np.random.default_rng(0).integers(2, 256, (5, 6, 6, 3), dtype=np.uint8)


def saved(folder: Path, **arrays: object) -> Path:
    np.savez(folder / "x.npz", **{name: np.asarray(value) for name, value in arrays.items()})
    return folder / "x.npz"


@pytest.mark.parametrize(
    "images",
    [
        BYTES,
        BYTES.transpose(0, 3, 1, 2),
        BYTES.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1,
        BYTES.astype(np.float64) / 255,
        BYTES.astype(np.float32),
        BYTES.astype(np.int64),
        np.concatenate([BYTES, np.full_like(BYTES[..., :1], 255)], axis=-1),
    ],
    ids=["bytes", "channels first", "-1 to 1", "0 to 1", "floats of 255", "int64", "opaque"],
)
def test_orders_and_ranges_are_the_same_pictures(tmp_path: Path, images: np.ndarray) -> None:
    found, _ = open_arrays(saved(tmp_path, images=images))
    assert torch.allclose(floats(found), floats(torch.from_numpy(BYTES).permute(0, 3, 1, 2)), atol=1e-6)


def test_black_and_white_are_black_and_white(tmp_path: Path) -> None:
    for kind in (np.uint8, bool, np.float32):
        images = np.eye(6)[None].repeat(2, 0).astype(kind)
        found = floats(open_arrays(saved(tmp_path, images=images))[0])
        assert found.unique().tolist() == [-1, 1] and bool((found[0, 0].diagonal() == 1).all())


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4, 4), np.uint8)
    images[:, 2:, :, 3] = 255
    found = floats(open_arrays(saved(tmp_path, images=images))[0])
    assert found.shape == (2, 3, 4, 4) and bool((found[:, :, :2] == 1).all()) and bool((found[:, :, 2:] == -1).all())


def test_train_and_test_with_names_of_classes(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        X_train=BYTES,
        y_train=[[0], [2], [1], [0], [2]],
        x_test=BYTES[:2] // 2,
        y_test=[1, 0],
        class_names=["bag", "boot", "coat"],
    )
    parts = open_parts(path, 6)
    assert parts.classes == ("bag", "boot", "coat")
    assert parts.train.get(range(5))["label"].tolist() == [0, 2, 1, 0, 2]
    assert parts.held_out.get(range(2))["label"].tolist() == [1, 0]
    assert torch.equal(parts.held_out.get([1])["x"], floats(torch.from_numpy(BYTES[1] // 2).permute(2, 0, 1))[None])


def test_validation_and_test_are_both_held_out(tmp_path: Path) -> None:
    path = saved(tmp_path, train_images=BYTES, val_images=BYTES[:1] // 2, test_images=BYTES[:2] // 3)
    parts = open_parts(path, 6)
    assert (len(parts.train), len(parts.held_out)) == (5, 3)


@pytest.mark.parametrize("labels", [["b", "a", "b", "c", "a"], [10, 2, 10, 30, 2], [10.0, 2.0, 10.0, 30.0, 2.0]])
def test_labels_may_be_names_or_any_numbers(tmp_path: Path, labels: list[object]) -> None:
    _, facts = open_arrays(saved(tmp_path, images=BYTES, labels=labels))
    assert facts.labels == (1, 0, 1, 2, 0)
    assert facts.classes in (("a", "b", "c"), ("2", "10", "30"))


def test_captions_and_groups(tmp_path: Path) -> None:
    captions = ["one", "two ", "drei ä", "four", "five"]
    path = saved(tmp_path, images=BYTES, captions=captions, groups=[1, 1, 2, 2, 2])
    parts = open_parts(path, (6, 3))
    assert parts.captioned
    sides = [{part.caption(index) for index in range(len(part))} for part in (parts.train, parts.held_out)]
    assert sorted(sides, key=len) == [{"one", "two"}, {"drei ä", "four", "five"}]
    batch = parts.train.get([1])
    assert batch["size"].tolist() == [[6, 6]] and batch["crop"].tolist() == [[0, 1]]
    assert batch["target"].tolist() == [[6, 3]] and batch["x"].shape == (1, 3, 6, 3)


def test_a_folder_of_one_file_is_that_file(tmp_path: Path) -> None:
    saved(tmp_path, images=BYTES)
    (tmp_path / "LICENSE").write_text("free")
    assert len(open_parts(tmp_path, 6).train) == 4


def test_latents_keep_their_range_and_channels(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(0, 3, (5, 4, 6, 6)).astype(np.float32)
    parts = open_parts(saved(tmp_path, latents=latents, labels=np.arange(5)), 6, 4)
    batch = parts.train.get(range(4))
    assert np.array_equal(batch["x"].numpy(), latents[batch["label"].numpy()])
    with pytest.raises(DataError, match="finite"):
        open_arrays(saved(tmp_path, latents=latents * np.inf))


def test_scaling_covers_and_channels_change() -> None:
    images = torch.arange(72, dtype=torch.uint8).view(1, 1, 6, 12).expand(1, 3, 6, 12)
    same, crop = cover(images, (6, 6))
    assert crop == (0, 3) and torch.equal(same, images[..., 3:9])
    half, crop = cover(images, (3, 6))
    assert half.shape == (1, 3, 3, 6) and crop == (0, 0)
    assert torch.equal(in_channels(images, 1, Path("x")), images[:, :1])
    assert torch.equal(in_channels(images[:, :1], 3, Path("x")), images)
    with pytest.raises(DataError, match="3 channels, not 4"):
        in_channels(images, 4, Path("x.npz"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": np.zeros((2, 4, 4))}, "no array named 'images'"),
        ({"images": np.full((2, 4, 4), np.nan, dtype=np.float32)}, "NaN"),
        ({"images": np.full((2, 4, 4), 7.5)}, "outside"),
        ({"images": np.full((2, 4, 4), -7.0)}, "outside"),
        ({"images": np.full((2, 4, 4), 300)}, "outside"),
        ({"images": np.full((2, 4, 4), 1j)}, "complex"),
        ({"images": np.zeros((2, 4, 4), "datetime64[s]")}, "datetime"),
        ({"images": BYTES, "labels": np.zeros(3, int)}, "one whole number"),
        ({"images": BYTES, "labels": np.full(5, 0.5)}, "one whole number"),
        ({"images": BYTES, "labels": np.arange(5), "class_names": np.array(["a", "b"])}, "go from 0 to 4, and"),
        ({"x_train": BYTES, "y_train": np.arange(5), "x_test": BYTES}, "labels of the test part"),
        ({"x_train": BYTES, "x_test": BYTES[:, :3]}, "have the shapes"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "shape"),
        ({"images": np.zeros((2, 0, 4), np.uint8)}, "shape"),
        ({"images": np.array([{"a": 1}], dtype=object)}, "plain arrays"),
        ({"images": BYTES, "captions": np.array(["a", "b"])}, "one text for each of the 5"),
        ({"images": BYTES, "captions": np.array(["a", " ", "b", "c", "d"])}, "caption 1 .* is empty"),
        ({"images": BYTES, "captions": np.array(["a", "b", None, "c", "d"], dtype=object)}, "plain arrays"),
        ({"images": BYTES, "captions": np.arange(5)}, "one text for each"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_arrays(saved(tmp_path, **arrays))
