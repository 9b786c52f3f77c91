"""Sheets: a grid of images in one PNG, whose metadata says how to make it again."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

KEY = "langevin"


def tile(images: Tensor, columns: int | None = None, gap: int = 1) -> Tensor:
    """(N, C, H, W) in [-1, 1] -> one image (C, rows * (H + gap) + gap, columns * (W + gap) + gap) on mid-grey."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = images.new_zeros(channels, rows * (height + gap) + gap, columns * (width + gap) + gap)
    for index, image in enumerate(images):
        top, left = gap + index // columns * (height + gap), gap + index % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def picture(image: Tensor, scale: int = 1) -> Image.Image:
    """(C, H, W) in [-1, 1] -> a PIL image, pixels repeated ``scale`` times; of latents, the first three channels."""
    image = image if len(image) in (1, 3) else image[:3]
    pixels = ((image.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    found = Image.fromarray(array)
    return found.resize((found.width * scale, found.height * scale), Image.Resampling.NEAREST)


def save_sheet(path: Path, images: Tensor, settings: dict[str, object], columns: int | None = None) -> None:
    """Write images (N, C, H, W) in [-1, 1] as one PNG with ``settings`` in its metadata; small images are enlarged.

    The file appears whole or not at all. Raises OSError when the folder cannot be written.
    """
    scale = max(1, 64 // images.shape[-1])
    note = PngImagePlugin.PngInfo()
    note.add_text(KEY, json.dumps(settings, sort_keys=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, suffix=".png")
    try:
        with os.fdopen(handle, "wb") as file:
            picture(tile(images, columns), scale).save(file, format="PNG", pnginfo=note)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def read_settings(path: Path) -> dict[str, object]:
    """The settings in a sheet's metadata. Raises ValueError when there are none."""
    try:
        with Image.open(path) as image:
            text = image.info.get(KEY)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a readable PNG: give a sheet that `langevin sample` wrote") from error
    if text is None:
        raise ValueError(f"{path} carries no settings: give a sheet that `langevin sample` wrote")
    settings: dict[str, object] = json.loads(text)
    return settings
