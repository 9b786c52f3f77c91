"""Pictures as the commands know them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.survey import Survey, Track, plainly
from core.files import whole
from core.media.picture import convert, to_tensor
from core.media.sheet import picture, read_settings, same_pixels, save_page, save_sheet
from core.model import Metadata, Modality, Model, Request
from core.prompts import Conditions
from core.provenance import FORMAT, write_sidecar
from core.registry import INDEX
from image.operations import OPERATIONS
from image.picture import Picture
from image.prepare import PREPARATION
from image.request import REQUEST, ImageRequest

ARRAYS = ".npz"


class Pictures(Modality[Picture]):
    """PNG files: one picture as it is, several as a sheet with their captions; or .npz: the numbers themselves."""

    name = "image"
    suffixes = (".png", ARRAYS)
    request = REQUEST
    operations = OPERATIONS
    preparation = PREPARATION

    def decode(self, data: Tensor, conditions: Conditions) -> list[Picture]:
        shown = conditions.get("caption", conditions.get("class_name", [""] * len(data)))
        captions = [str(caption) for caption in shown]
        return [Picture(pixels, caption) for pixels, caption in zip(data, captions, strict=True)]

    def encode(self, objects: Sequence[Picture]) -> Tensor:
        return torch.stack([found.pixels for found in objects])

    def accept(self, source: Any) -> Picture:
        if isinstance(source, Image.Image):
            return Picture(to_tensor(convert(source)))
        return Picture(source) if isinstance(source, Tensor) else super().accept(source)

    def picture(self, thing: Picture) -> Image.Image:
        return picture(thing.pixels)

    def read(self, path: Path) -> Picture:
        from image.folder import read_picture

        return Picture(read_picture(path))

    def write(self, path: Path, objects: Sequence[Picture], metadata: Metadata) -> None:
        images, captions = self.encode(objects), [found.caption for found in objects]
        about = dict(metadata)
        if path.suffix.lower() == ARRAYS:
            _write_arrays(path, images, captions)
            write_sidecar(path, about)
        elif len(objects) == 1:
            save_page(path, picture(images[0]), about)
        else:
            save_sheet(path, images, about, captions=captions if any(captions) else None)

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        return read_settings(path) if path.suffix.lower() == ".png" else super().read_metadata(path)

    def same(self, old: Path, new: Path, settings: Metadata) -> bool:
        if new.suffix.lower() == ARRAYS:
            with np.load(old) as before, np.load(new) as after:
                return before.keys() == after.keys() and all(np.array_equal(before[key], after[key]) for key in before)
        # Settings of an older format are rewritten in today's, so only the pixels can be the same.
        return same_pixels(old, new) if settings["format"] != FORMAT else super().same(old, new, settings)

    def own_arguments(self, data: Path) -> dict[str, Any]:
        from image.facts import picture_arguments

        return picture_arguments(data)

    def count_data(self, path: Path) -> int:
        from image.folder import count_pictures

        return count_pictures(path)

    def survey(self, path: Path, track: Track = plainly, thorough: bool = True) -> Survey:
        from image.survey import survey

        return survey(path, track, thorough)

    def examples(self, path: Path, count: int) -> list[Picture]:
        from image.survey import examples

        return examples(path, count)

    def opens(self, path: Path) -> bool:
        return (path / INDEX).is_file()

    def open_published(self, path: Path, request: Request | None) -> Model:
        from image.published import open_pipeline

        size = request.size if isinstance(request, ImageRequest) else None
        return open_pipeline(path, None if size is None else (size[0], size[-1])).model(self, path)

    def export(self, path: Path, out: Path, layout: str) -> str:
        from image.published.export import export

        return export(path, out, layout)


def _write_arrays(path: Path, images: Tensor, captions: Sequence[str]) -> None:
    """``images`` (N, C, H, W), floats in [-1, 1], and ``captions`` (N,) where there are any: data for training, too."""
    arrays = {"images": images.float().numpy()}
    if any(captions):
        arrays["captions"] = np.array(captions)
    with whole(path) as draft, open(draft, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


MODALITY = Pictures()
