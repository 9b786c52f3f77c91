"""Images as data sets: scikit-learn's real digits, folders, class folders and npz files.

A data set answers ``len(data)`` and ``data.get(indices) -> {"x": (B, C, H, W) in [-1, 1], "label": (B,)}``; the label
is there only if the data has classes. Everything is checked when the data set is opened, not in the middle of training.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.dataset import DataError
from core.data.source import divided
from core.media.picture import SUFFIXES, Size, decode, resize_and_crop, size_of, to_tensor


@dataclass(frozen=True)
class ImageArray:
    """Images in memory: (N, C, H, W) float in [-1, 1], and their classes (N,) or None."""

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return tuple(self.images.shape[1:])

    def get(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The images, and their labels if any, at some indices."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        batch = {"x": self.images[rows]}
        return batch if self.labels is None else batch | {"label": self.labels[rows]}


@dataclass(frozen=True)
class ImageFiles:
    """Images on disk, decoded when asked for: resized on the shorter side and cropped in the middle to ``size``."""

    paths: tuple[Path, ...]
    labels: Tensor | None
    size: int
    channels: int = 3

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return (self.channels, self.size, self.size)

    def get(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The images, and their labels if any, at some indices."""
        images = torch.stack([_read(self.paths[index], self.size, self.channels) for index in indices])
        if self.labels is None:
            return {"x": images}
        return {"x": images, "label": self.labels[torch.as_tensor(indices, dtype=torch.long)]}


def digits() -> tuple[ImageArray, ImageArray]:
    """Scikit-learn's 1,797 real handwritten digits at 8x8: 1,297 to train on and 500 held out, in a fixed shuffle."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1  # (1797, 1, 8, 8)
    labels = torch.tensor(found.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return ImageArray(images[:1297], labels[:1297]), ImageArray(images[1297:], labels[1297:])


def split(data: ImageArray | ImageFiles, held_out: float = 0.1) -> tuple[Subset, Subset]:
    """A training part and a held-out part, by a fixed shuffle; both have at least one image."""
    kept, out = divided(len(data), held_out)
    return Subset(data, kept), Subset(data, out)


@dataclass(frozen=True)
class Subset:
    """Some of a data set's images."""

    data: ImageArray | ImageFiles
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return self.data.shape

    @property
    def labels(self) -> Tensor | None:
        """The classes of these images, if any."""
        return None if self.data.labels is None else self.data.labels[list(self.indices)]

    def get(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The images, and their labels if any, at some indices."""
        return self.data.get([self.indices[index] for index in indices])


def open_images(path: Path, size: int | None = None, channels: int = 3) -> ImageArray | ImageFiles:
    """Images of an .npz file, a folder of images, or a folder of class folders.

    ``size`` is the height and width to resize and crop to; without it all images must have one size already. Raises
    DataError, in one sentence, for whatever cannot be used.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: give a folder of images or an .npz file")
    if path.is_dir():
        return _open_folder(path, size, channels)
    if path.suffix == ".npz":
        return _open_npz(path, size)
    raise DataError(f"{path} is neither a folder nor an .npz file: give one of these")


def _open_folder(path: Path, size: int | None, channels: int) -> ImageFiles:
    folders = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    loose = [child for child in sorted(path.iterdir()) if child.is_file() and not child.name.startswith(".")]
    labels: list[int] = []
    paths: list[Path] = []
    if loose:
        paths = loose
    for label, folder in enumerate(folders if not loose else []):
        members = [child for child in sorted(folder.iterdir()) if child.is_file() and not child.name.startswith(".")]
        paths += members
        labels += [label] * len(members)
    if not paths:
        raise DataError(
            f"{path} holds no images: put {', '.join(sorted(SUFFIXES))} files into it or into class folders"
        )
    sizes = {_size(file): file for file in paths}
    if size is None:
        if len(sizes) > 1:
            (one, first), (two, second) = list(sizes.items())[:2]
            raise DataError(
                f"images differ in size ({first.name} is {one[1]}x{one[0]}, {second.name} {two[1]}x{two[0]}): "
                "give the size to resize them to"
            )
        height, width = next(iter(sizes))
        if width != height:
            raise DataError(f"images are {width}x{height}: give the size of the square to crop them to")
        size = width
    return ImageFiles(tuple(paths), torch.tensor(labels) if labels else None, size, channels)


def _size(path: Path) -> Size:
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} is not an image: remove it, or convert it to PNG")
    with path.open("rb") as file:
        return size_of(file, str(path))


def _read(path: Path, size: int, channels: int) -> Tensor:
    with path.open("rb") as file:
        picture = decode(file, str(path), channels)
    return to_tensor(resize_and_crop(picture, (size, size))[0])


def _open_npz(path: Path, size: int | None) -> ImageArray:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            f"{path} is not a readable .npz file of plain arrays: save it again with numpy.savez"
        ) from error
    if "latents" in arrays:
        return ImageArray(_latents(path, arrays["latents"]), _labels(path, arrays, len(arrays["latents"])))
    names = [name for name in ("images", "x", "arr_0", "x_train") if name in arrays]
    if not names:
        raise DataError(f"{path} has no array named 'images': it holds {', '.join(sorted(arrays)) or 'nothing'}")
    images = _channels_first(path, arrays[names[0]])
    if size is not None and images.shape[-2:] != (size, size):
        images = torch.nn.functional.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
    return ImageArray(images, _labels(path, arrays, len(images)))


def _labels(path: Path, arrays: Mapping[str, np.ndarray], count: int) -> Tensor | None:
    labels = next((arrays[name] for name in ("labels", "label", "y", "arr_1", "y_train") if name in arrays), None)
    if labels is None:
        return None
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(f"the labels in {path} must be one whole number for each of the {count} images")
    return torch.from_numpy(labels.astype(np.int64))


def _latents(path: Path, array: np.ndarray) -> Tensor:
    """(N, C, H, W) numbers of any range and any channels, as an autoencoder made them."""
    if array.ndim != 4 or len(array) == 0 or array.dtype.kind != "f" or not bool(np.isfinite(array).all()):
        raise DataError(f"the latents in {path} must be finite floats of shape (N, C, H, W), not {array.shape}")
    return torch.from_numpy(np.ascontiguousarray(array)).float()


def _channels_first(path: Path, array: np.ndarray) -> Tensor:
    """(N, H, W), (N, H, W, C) or (N, C, H, W), whole numbers of [0, 255] or floats of [-1, 1] -> (N, C, H, W) float."""
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or len(array) == 0:
        raise DataError(f"the images in {path} have shape {array.shape}: they must be (N, H, W) or (N, H, W, 1 or 3)")
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array)).float() / 127.5 - 1
    images = torch.from_numpy(np.ascontiguousarray(array)).float()
    if not bool(images.isfinite().all()):
        raise DataError(f"the images in {path} contain NaN or infinity: clean them first")
    if float(images.abs().max()) > 1.001:
        raise DataError(f"the images in {path} are floats outside [-1, 1]: store them as uint8, or scale them")
    return images
