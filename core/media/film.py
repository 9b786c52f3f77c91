"""Films: moving pictures as .gif or .mp4, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

from PIL import Image

from core.files import whole

COLOURS = 32  # of a .gif


def write_film(path: Path, frames: Iterable[Image.Image], fps: float) -> None:
    """Write frames of one size. Raises ValueError for another ending or no frames, OSError where nothing is written."""
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"films are written as {' or '.join(WRITERS)}, not '{path.suffix}'")
    with whole(path) as draft:
        WRITERS[suffix](draft, frames, fps)


def _write_gif(path: Path, frames: Iterable[Image.Image], fps: float) -> None:
    """Repeats for ever; the format counts hundredths of a second."""
    few = [_few_colours(frame) for frame in frames]
    if not few:
        raise ValueError("a film needs at least one frame")
    duration = max(1, round(100 / fps)) * 10
    few[0].save(path, save_all=True, append_images=few[1:], duration=duration, loop=0, optimize=False)


def _few_colours(frame: Image.Image) -> Image.Image:
    return frame.quantize(COLOURS, dither=Image.Dither.NONE)


def _write_mp4(path: Path, frames: Iterable[Image.Image], fps: float) -> None:
    """H.264; one row or column less where a side is odd. Raises ValueError without the av package."""
    try:
        import av
    except ImportError as error:
        raise ValueError("MP4 files need the av package: install langevin[motion], or write a .gif") from error
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        stream.width = 0
        for frame in frames:
            width, height = (side - side % 2 for side in frame.size)  # the format wants even sides
            if stream.width == 0:
                stream.width, stream.height = width, height
            file.mux(stream.encode(av.VideoFrame.from_image(frame.crop((0, 0, width, height)))))
        if stream.width == 0:
            raise ValueError("a film needs at least one frame")
        file.mux(stream.encode())


WRITERS: dict[str, Callable[[Path, Iterable[Image.Image], float], None]] = {".gif": _write_gif, ".mp4": _write_mp4}
