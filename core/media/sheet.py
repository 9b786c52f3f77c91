"""Sheets: a grid of images in one PNG, whose metadata holds the settings to make it again."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from core.files import whole
from core.provenance import KEY, dumps, loads

MOST_LINES = 8  # of a caption


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


def captioned_page(
    images: Tensor, captions: Sequence[str], columns: int | None = None, width: int = 128
) -> Image.Image:
    """Pictures (N, C, H, W) in [-1, 1], each about ``width`` pixels wide, its caption (cut if long) beneath it."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    shown = [picture(image, max(1, width // images.shape[-1])) for image in images]
    font = ImageFont.load_default(size=11)
    characters = max(8, shown[0].width // 6)
    lines = [textwrap.wrap(words, characters, max_lines=MOST_LINES, placeholder=" ...") or [""] for words in captions]
    across, line = shown[0].width + 8, 13
    down = shown[0].height + line * max(map(len, lines)) + 10
    sheet = Image.new("RGB", (columns * across + 8, math.ceil(len(shown) / columns) * down + 8), "white")
    pen = ImageDraw.Draw(sheet)
    for index, image in enumerate(shown):
        left, top = 8 + index % columns * across, 8 + index // columns * down
        pen.rectangle((left - 1, top - 1, left + image.width, top + image.height), outline=(190, 190, 190))
        sheet.paste(image, (left, top))
        for row, words in enumerate(lines[index]):
            pen.text((left, top + image.height + 2 + row * line), words, fill=(40, 40, 40), font=font)
    return sheet


def save_sheet(
    path: Path, images: Tensor, settings: Mapping[str, object], captions: Sequence[str] | None = None
) -> None:
    """Write images (N, C, H, W) in [-1, 1] as one PNG with ``settings`` in its metadata; small images are enlarged.

    captions: one for each image, shown beneath it.
    """
    if captions is None:
        page = picture(tile(images), max(1, 64 // images.shape[-1]))
    else:
        page = captioned_page(images, captions)
    save_page(path, page, settings)


def save_page(path: Path, page: Image.Image, settings: Mapping[str, object]) -> None:
    """Write a PNG with ``settings`` in its metadata, whole or not at all. Raises OSError where it cannot be written."""
    note = PngImagePlugin.PngInfo()
    note.add_text(KEY, dumps(settings))
    with whole(path) as draft:
        page.save(draft, format="PNG", pnginfo=note)


def read_settings(path: Path) -> dict[str, object]:
    """The settings in a sheet's metadata. Raises ValueError when there are none, or none that can be read."""
    try:
        with Image.open(path) as image:
            text = image.info.get(KEY)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a readable PNG: give a sheet that `langevin sample` wrote") from error
    if text is None:
        raise ValueError(f"{path} carries no settings: give a sheet that `langevin sample` wrote")
    return loads(text, path)


def same_pixels(one: Path, other: Path) -> bool:
    """Whether two pictures show the same, whatever their metadata."""
    with Image.open(one) as first, Image.open(other) as second:
        return first.size == second.size and first.mode == second.mode and first.tobytes() == second.tobytes()
