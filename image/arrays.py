"""Pictures in memory: of an .npz file, or decoded once.

images             (N, H, W), (N, H, W, C) or (N, C, H, W); also called image, x, data or arr_0; see ``channels_first``
labels             (N,) whole numbers or names; also label, y, class or arr_1
class_names        (K,) the name of each label
captions           (N,) texts; also caption or texts
groups             (N,) numbers or names: pictures of one group lie on one side of a split; also group or subjects
x_train, x_test    each of these with _train, _test or _val behind, or train_, test_ or val_ before: what is of a test
                   or validation part is never trained on
latents            (N, C, H, W) finite floats in place of images
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.captions import TEST, classes_of
from core.data.dataset import DataError
from core.data.source import Facts
from core.media.picture import Size

Arrays = Mapping[str, np.ndarray]

IMAGES = ("images", "image", "x", "data", "arr_0")
LABELS = ("labels", "label", "y", "class", "arr_1")
NAMES = ("class_names", "classes", "label_names")
CAPTIONS = ("captions", "caption", "texts")
GROUPS = ("groups", "group", "subjects", "subject")
GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601), as Pillow converts
LARGEST = 2**36  # bytes of arrays in one file; more are a mistake, or a bomb


class Frame(NamedTuple):
    """What pictures were before they were scaled and cropped: the size of each, and where its crop begins."""

    size: Tensor  # (N, 2) height and width
    crop: Tensor  # (N, 2) rows above, columns on the left


@dataclass(frozen=True)
class ImageArray:
    """Images in memory: (N, C, H, W), floats in [-1, 1] or bytes, their classes (N,) or None, what else is known."""

    images: Tensor
    labels: Tensor | None = None
    captions: Sequence[str] | None = None
    frame: Frame | None = None
    numbers: Tensor | None = None  # (N, K)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return tuple(self.images.shape[1:])

    def caption(self, index: int) -> str:
        """What an image shows. Raises DataError where none has a caption."""
        if self.captions is None:
            raise DataError("these images have no captions")
        return self.captions[index]

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        """The images at some indices, "x" as floats in [-1, 1], and what is known of them."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        x = self.images[rows]
        batch: dict[str, Any] = {"x": x if x.is_floating_point() else x.float() / 127.5 - 1}
        if self.numbers is not None:
            batch["number"] = self.numbers[rows]
        if self.labels is not None:
            batch["label"] = self.labels[rows]
        if self.captions is not None:
            batch["caption"] = [self.captions[index] for index in rows.tolist()]
        if self.frame is not None:
            target = torch.tensor([self.shape[-2:]], dtype=torch.float32).expand(len(rows), 2)
            batch |= {"size": self.frame.size[rows], "crop": self.frame.crop[rows], "target": target}
        return batch

    def with_facts(self, facts: Facts) -> ImageArray:
        """The same images, with these facts in place of those they had."""
        known = facts.batch(range(len(self)))
        return replace(self, labels=known.get("label"), captions=known.get("caption"), numbers=known.get("number"))


def open_arrays(path: Path) -> tuple[Tensor, Facts]:
    """All images of an .npz file at the size they have (N, C, H, W), those of a test split last, and their facts.

    Bytes stay bytes; floats are in [-1, 1], latents any. Raises DataError, in one sentence, for what cannot be used.
    """
    arrays = _read(path)
    blocks = [_latents(path, arrays["latents"])] if "latents" in arrays else []
    parts = [""]
    if not blocks:
        main = _find(arrays, IMAGES, "") or _find(arrays, IMAGES, "train")
        if main is None:
            raise DataError(f"{path} has no array named 'images': it holds {', '.join(sorted(arrays)) or 'nothing'}")
        parts = ["train" if _find(arrays, IMAGES, "") is None else ""]
        parts += [part for part in sorted(TEST) if _find(arrays, IMAGES, part)]
        blocks = [channels_first(path, arrays[_find(arrays, IMAGES, part) or main]) for part in parts]
    shapes = {tuple(block.shape[1:]) for block in blocks}
    if len(shapes) > 1:
        raise DataError(f"the images in {path} have the shapes {' and '.join(map(str, sorted(shapes)))}: give them one")
    counts = [len(block) for block in blocks]
    labels, classes = _classes(path, arrays, _values(path, arrays, LABELS, parts, counts))
    captions = _captions(path, _values(path, arrays, CAPTIONS, parts, counts))
    found = _values(path, arrays, GROUPS, parts, counts)
    groups = None if found is None else [str(value) for value in found]
    test = frozenset(range(counts[0], sum(counts)))
    images = blocks[0] if len(blocks) == 1 else torch.cat([_same(block, blocks) for block in blocks])
    return images, Facts(captions, labels, classes, groups=groups, test=test)


def _same(block: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    """A block as floats where any is of floats."""
    return block if all(other.dtype == torch.uint8 for other in blocks) else floats(block)


def floats(images: Tensor) -> Tensor:
    """Images of bytes or floats as floats in [-1, 1]."""
    return images if images.is_floating_point() else images.float() / 127.5 - 1


def _read(path: Path) -> Arrays:
    """The arrays of a file by their names in small letters, but for those that nothing here is called."""
    try:
        with zipfile.ZipFile(path) as members:
            if sum(member.file_size for member in members.infolist()) > LARGEST:
                raise DataError(f"{path} says that its arrays take over {LARGEST >> 30} GiB: give pictures as files")
        with np.load(path, allow_pickle=False) as file:
            return {name.casefold(): file[name] for name in file.files}
    except DataError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, MemoryError) as error:
        raise DataError(
            f"{path} is not a readable .npz file of plain arrays: save it again with numpy.savez"
        ) from error


def has_images(path: Path) -> bool:
    """Whether a file is an .npz file whose arrays are called as pictures are."""
    if path.suffix.casefold() != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as members:
        names = {name.casefold().removesuffix(".npy"): None for name in members.namelist()}
    return "latents" in names or any(_find(names, IMAGES, part) for part in ("", "train"))


def _find(arrays: Mapping[str, object], names: Sequence[str], part: str) -> str | None:
    """The array of a part, "" for the whole: x_test or test_x."""
    every = [name for base in names for name in ((f"{base}_{part}", f"{part}_{base}") if part else (base,))]
    return next((name for name in every if name in arrays), None)


def _values(
    path: Path, arrays: Arrays, names: tuple[str, ...], parts: Sequence[str], counts: Sequence[int]
) -> list[Any] | None:
    """One value for each image of every part, or None where there are none. Raises DataError for too few or many."""
    keys = [_find(arrays, names, part) for part in parts]
    keys[0] = keys[0] or _find(arrays, names, "")
    if keys[0] is None:
        return None
    found: list[Any] = []
    for key, part, count in zip(keys, parts, counts):
        values = None if key is None else arrays[key]
        if values is not None and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values is None or values.shape != (count,):
            what = f"{names[0]} of the {part} part" if part else names[0]
            raise DataError(f"the {what} in {path} must be one {SINGLE[names]} for each of the {count} images")
        found += values.tolist()
    return found


SINGLE = {LABELS: "whole number or name", CAPTIONS: "text", GROUPS: "number or name"}


def _classes(path: Path, arrays: Arrays, values: list[Any] | None) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    if values is None:
        return None, ()
    whole = [int(value) for value in values if isinstance(value, int | float) and float(value).is_integer()]
    if len(whole) < len(values):
        if not all(isinstance(value, str) and value.strip() for value in values):
            raise DataError(f"the labels in {path} must be one whole number or name for each of the images")
        return classes_of(values)
    key = next((name for name in NAMES if name in arrays), None)
    if key is None:
        return classes_of(whole)
    names = tuple(str(name).strip() for name in arrays[key].ravel().tolist())
    if min(whole) < 0 or max(whole) >= len(names):
        raise DataError(f"the labels in {path} go from {min(whole)} to {max(whole)}, and {key} has {len(names)} names")
    return tuple(whole), names


def _captions(path: Path, values: list[Any] | None) -> tuple[str, ...] | None:
    if values is None:
        return None
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(f"the captions in {path} must be one text for each of the {len(values)} images")
        if not value.strip():
            raise DataError(f"caption {index} in {path} is empty: write one")
    return tuple(value.strip() for value in values)


def _latents(path: Path, array: np.ndarray) -> Tensor:
    """(N, C, H, W) numbers of any range and any channels, as an autoencoder made them."""
    if array.ndim != 4 or len(array) == 0 or array.dtype.kind != "f" or not bool(np.isfinite(array).all()):
        raise DataError(f"the latents in {path} must be finite floats of shape (N, C, H, W), not {array.shape}")
    return torch.from_numpy(np.ascontiguousarray(array)).float()


def channels_first(path: Path, array: np.ndarray) -> Tensor:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) of 1, 3 or 4 channels -> (N, C, H, W) of 1 or 3, bytes or floats.

    Whole numbers are of [0, 255], or of [0, 1] where none is larger; floats are of [-1, 1], or of [0, 1] where none is
    below 0, or whole numbers of [0, 255]. A fourth channel is opacity, over white. Raises DataError for anything else.
    """
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[-1] in (1, 3, 4) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4) or array.size == 0:
        raise DataError(f"the images in {path} have shape {array.shape}: they must be (N, H, W) or (N, H, W, 1 or 3)")
    if array.dtype.kind not in "buif":
        raise DataError(f"the images in {path} are {array.dtype}: store them as uint8")
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        raise DataError(f"the images in {path} contain NaN or infinity: clean them first")
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "f" and low < 0:
        if max(-low, high) > 1.001:
            raise DataError(f"the images in {path} are floats outside [-1, 1]: store them as uint8, or scale them")
        return _opaque(torch.from_numpy(np.ascontiguousarray(array)).float())
    whole = array.dtype.kind != "f" or bool((array == np.rint(array)).all())
    if low < 0 or high > (255 if whole else 1.001):
        raise DataError(f"the images in {path} are numbers outside [0, 255]: store them as uint8, or scale them")
    if array.dtype.kind == "f" and high <= 1.001:
        return _opaque(torch.from_numpy(np.ascontiguousarray(array)).float().clamp(0, 1) * 2 - 1)
    scale = 255 if high == 1 else 1
    return _opaque(torch.from_numpy(np.ascontiguousarray(array.astype(np.uint8) * np.uint8(scale))))


def _opaque(images: Tensor) -> Tensor:
    """Images of four channels over white, in the numbers that they have; others as they are."""
    if images.shape[1] != 4:
        return images
    colour = floats(images[:, :3])
    opacity = (floats(images[:, 3:]) + 1) / 2
    return colour * opacity + (1 - opacity)


def cover(images: Tensor, target: Size) -> tuple[Tensor, tuple[int, int]]:
    """Images (N, C, H, W) scaled to cover the target and cropped in the middle, and the crop's (top, left).

    Those that have another size become floats.
    """
    height, width = images.shape[-2:]
    scale = max(target[0] / height, target[1] / width)
    covering = (max(target[0], round(height * scale)), max(target[1], round(width * scale)))
    if covering != (height, width):
        images = F.interpolate(floats(images), covering, mode="bicubic", antialias=True).clamp(-1, 1)
    top, left = (covering[0] - target[0]) // 2, (covering[1] - target[1]) // 2
    return images[..., top : top + target[0], left : left + target[1]].contiguous(), (top, left)


def in_channels(images: Tensor, channels: int, path: Path) -> Tensor:
    """Images with as many channels: grey becomes three equal ones, three become grey. Raises DataError otherwise."""
    if images.shape[1] == channels:
        return images
    if (images.shape[1], channels) == (1, 3):
        return images.expand(-1, 3, -1, -1).contiguous()
    if (images.shape[1], channels) == (3, 1):
        weights = torch.tensor(GREY).view(1, 3, 1, 1)
        grey = (floats(images) * weights).sum(1, keepdim=True)
        return grey if images.is_floating_point() else to_bytes(grey)
    raise DataError(f"the images in {path} have {images.shape[1]} channels, not {channels}: convert them")


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
