"""One decoder: whatever a file holds becomes the same 8 bits, upright and on white."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from core.data.dataset import DataError
from core.media.picture import decode, resize_and_crop, size_of, to_tensor

WANTED = np.array([[0, 64, 128], [191, 254, 255]])


def file_of(picture: Image.Image, kind: str, **about: object) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, kind, **about)
    file.seek(0)
    return file


def pgm() -> io.BytesIO:
    return io.BytesIO(b"P5 3 2 65535\n" + (WANTED * 257).astype(">u2").tobytes())


def unsigned_tiff() -> io.BytesIO:
    file = file_of(Image.fromarray((WANTED.astype(np.uint32) * 0x1010101).view(np.int32)), "TIFF")
    content = file.getvalue()
    # Pillow writes SampleFormat (339) as signed (2); the same bytes as unsigned (1).
    entry = content.index(b"\x53\x01\x03\x00")
    return io.BytesIO(content[: entry + 8] + b"\x01" + content[entry + 9 :])


FILES: dict[str, Callable[[], io.BytesIO]] = {
    "8 bits": lambda: file_of(Image.fromarray(WANTED.astype(np.uint8)), "PNG"),
    "16-bit PNG": lambda: file_of(Image.fromarray((WANTED * 257).astype(np.uint16)), "PNG"),
    "16-bit TIFF": lambda: file_of(Image.fromarray((WANTED * 257).astype(np.uint16)), "TIFF"),
    "16-bit PGM": pgm,
    "signed 32-bit TIFF": lambda: file_of(Image.fromarray((WANTED << 23).astype(np.int32)), "TIFF"),
    "unsigned 32-bit TIFF": unsigned_tiff,
    "float TIFF": lambda: file_of(Image.fromarray((WANTED / 255).astype(np.float32)), "TIFF"),
    "palette": lambda: file_of(Image.fromarray(WANTED.astype(np.uint8)).convert("P"), "PNG"),
    "colour": lambda: file_of(Image.fromarray(WANTED.astype(np.uint8)).convert("RGB"), "PNG"),
    "opaque": lambda: file_of(Image.fromarray(WANTED.astype(np.uint8)).convert("LA"), "PNG"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_depth_gives_the_same_pixels(name: str, channels: int) -> None:
    found = decode(FILES[name](), name, channels)
    wanted = WANTED if channels == 1 else np.repeat(WANTED[..., None], 3, -1)
    assert np.array_equal(np.asarray(found), wanted)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    picture = Image.fromarray(np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [0, 0, 0, 128]]], dtype=np.uint8), "RGBA")
    file = file_of(picture.convert(mode), "PNG")
    assert np.asarray(decode(file, "a.png", 1))[0].tolist() in ([255, 0, 127], [255, 0, 255])[: 1 + (mode == "P")]


def test_the_transparent_grey_of_sixteen_bits_is_white() -> None:
    file = file_of(Image.fromarray(np.array([[1000, 0]], dtype=np.uint16)), "PNG", transparency=1000)
    assert np.asarray(decode(file, "a.png", 1)).tolist() == [[255, 0]]


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_pictures_are_upright(depth: type) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    picture = Image.fromarray(np.array([[10, 20, 30]]).astype(depth) * (257 if depth is np.uint16 else 1))
    assert np.asarray(decode(file_of(picture, "PNG", exif=exif), "a.png", 1)).tolist() == [[10], [20], [30]]
    assert size_of(file_of(picture, "PNG", exif=exif), "a.png") == (3, 1)


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        decode(io.BytesIO(b"no picture"), "a.png")
    with pytest.raises(DataError, match=r"a\.tif holds floats outside of \[0, 1\]"):
        decode(file_of(Image.fromarray(np.full((2, 2), 7, np.float32)), "TIFF"), "a.tif")
    with pytest.raises(DataError, match="1 or 3 channels, not 4"):
        decode(FILES["8 bits"](), "a.png", 4)


def test_frames_reach_both_edges() -> None:
    picture = Image.fromarray(np.arange(6, dtype=np.uint8)[None].repeat(2, 0))
    cuts = [resize_and_crop(picture, (2, 2), (0.5, across)) for across in (0.0, 0.999)]
    assert [(np.asarray(cut)[0].tolist(), crop) for cut, crop in cuts] == [([0, 1], (0, 0)), ([4, 5], (0, 4))]


def test_levels_reach_both_ends() -> None:
    assert to_tensor(Image.fromarray(np.array([[0, 255]], dtype=np.uint8))).tolist() == [[[-1.0, 1.0]]]
