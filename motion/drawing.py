"""Rendering motions: skeletons on a ground with their path, as moving pictures from several sides or as a sheet.

A camera is aimed at a point, a little from above, in perspective. Left limbs are red, right limbs blue.
The picture is drawn at twice its size and then reduced, which smooths the lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from motion.features import check, faced
from motion.skeleton import HUMAN, Skeleton

Points = NDArray[np.float64]
Colour = tuple[int, int, int]

PAPER: Colour = (252, 252, 250)
GRID: Colour = (214, 216, 219)
PATH: Colour = (233, 168, 60)
INK: Colour = (40, 42, 48)
LEFT: Colour = (205, 62, 54)
RIGHT: Colour = (44, 99, 190)
FINE = 2  # pictures are drawn so many times larger
NEAR = 200  # frames before and after the one that is drawn whose path is shown


@dataclass(frozen=True)
class Camera:
    """A view: degrees around the vertical (0 is the front of a body that faces +z), and above the horizon."""

    around: float
    above: float = 12.0
    name: str = ""
    distance: float = 4.6  # metres from its target
    zoom: float = 1.8

    def project(self, points: Points, target: Points, size: int) -> tuple[Points, Points]:
        """Places (..., 2) in pixels of a square, and distances (...), of points (..., 3), aimed at a target."""
        turn, rise = np.radians(self.around), np.radians(self.above)
        toward = np.array([np.sin(turn) * np.cos(rise), np.sin(rise), np.cos(turn) * np.cos(rise)])
        right = np.array([np.cos(turn), 0.0, -np.sin(turn)])
        up = np.cross(toward, right)
        seen = points - target
        far = np.maximum(self.distance - seen @ toward, 0.3)
        scale = self.zoom * size / far
        return np.stack([size / 2 + scale * (seen @ right), size / 2 - scale * (seen @ up)], axis=-1), far


FRONT = Camera(25.0, name="front")
SIDE = Camera(100.0, name="side")
BACK = Camera(180.0, name="back")
TOP = Camera(180.0, above=89.0, name="top", distance=7.0)
VIEWS = (FRONT, SIDE, BACK)


def draw_pose(
    poses: Points, frame: int, camera: Camera, size: int, skeleton: Skeleton = HUMAN, target: Points | None = None
) -> Image.Image:
    """A square picture of one frame of poses (T, J, 3), with the path of the root.

    The camera is aimed at ``target`` (3,), by default at the middle of the body.
    """
    wide = size * FINE
    image = Image.new("RGB", (wide, wide), PAPER)
    pen = ImageDraw.Draw(image)
    if target is None:
        target = np.array([poses[frame, 0, 0], 1.0, poses[frame, 0, 2]])
    _ground(pen, camera, target, wide)
    near = poses[max(frame - NEAR, 0) : frame + NEAR, 0]
    trail = near * np.array([1.0, 0.0, 1.0])
    _line(pen, camera, trail, target, wide, PATH, 0.012)
    shadow = poses[frame] * np.array([1.0, 0.0, 1.0])
    for joint, parent in enumerate(skeleton.parents[1:], start=1):
        _line(pen, camera, shadow[[parent, joint]], target, wide, GRID, 0.02)
    _body(pen, camera, poses[frame], target, wide, skeleton)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _ground(pen: ImageDraw.ImageDraw, camera: Camera, target: Points, size: int) -> None:
    """Lines half a metre apart around the target."""
    middle = np.round(target[[0, 2]] * 2) / 2
    reach = np.arange(-3, 3.01, 0.5)
    for offset in reach:
        across = np.array([[middle[0] + a, 0, middle[1] + offset] for a in (-3, 3)])
        along = np.array([[middle[0] + offset, 0, middle[1] + a] for a in (-3, 3)])
        for ends in (across, along):
            # Short pieces, because a piece behind the camera cannot be drawn.
            _line(pen, camera, np.linspace(ends[0], ends[1], 13), target, size, GRID, 0.004)


def _line(
    pen: ImageDraw.ImageDraw, camera: Camera, points: Points, target: Points, size: int, ink: Colour, width: float
) -> None:
    places, far = camera.project(points, target, size)
    for start, stop, near in zip(places, places[1:], np.minimum(far, np.roll(far, -1))):
        if near > 0.35:
            thick = max(1, round(width * camera.zoom * size / float(near)))
            pen.line([tuple(start), tuple(stop)], fill=ink, width=thick)


def _body(
    pen: ImageDraw.ImageDraw, camera: Camera, pose: Points, target: Points, size: int, skeleton: Skeleton
) -> None:
    """Bones from the farthest to the nearest, round at their ends, and a head."""
    places, far = camera.project(pose, target, size)
    bones = [(float(far[[parent, joint]].mean()), joint) for joint, parent in enumerate(skeleton.parents) if joint]
    for depth, joint in sorted(bones, reverse=True):
        name = skeleton.names[joint]
        ink = LEFT if name.startswith("left") else RIGHT if name.startswith("right") else INK
        radius = 0.02 * camera.zoom * size / depth
        ends = [tuple(places[skeleton.parents[joint]]), tuple(places[joint])]
        pen.line(ends, fill=ink, width=max(2, round(2 * radius)))
        for x, y in ends:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
        if name == "head":
            x, y = places[joint]
            head = 0.09 * camera.zoom * size / depth
            pen.ellipse((x - head, y - head, x + head, y + head), fill=ink)


def film(
    joints: Tensor, views: Sequence[Camera] = VIEWS, size: int = 240, caption: str = "", skeleton: Skeleton = HUMAN
) -> Iterator[Image.Image]:
    """A picture for each frame of poses (T, J, 3), the views side by side, following the body."""
    check(joints, skeleton)
    poses = faced(joints, skeleton).double().cpu().numpy()
    head = 26 if caption else 0
    followed = _followed(poses)
    for frame in range(len(poses)):
        sheet = Image.new("RGB", (size * len(views), size + head), PAPER)
        for place, camera in enumerate(views):
            sheet.paste(draw_pose(poses, frame, camera, size, skeleton, followed[frame]), (place * size, head))
        pen = ImageDraw.Draw(sheet)
        if caption:
            pen.text((8, 5), _fitting(caption, sheet.width - 16), fill=INK, font=_font(14))
        for place, camera in enumerate(views):
            pen.text((place * size + 8, head + size - 18), camera.name, fill=(140, 142, 148), font=_font(11))
        yield sheet


def _followed(poses: Points) -> Points:
    """The target of a calm camera, (T, 3): the root's path, smoothed over a second."""
    ends = np.pad(poses[:, 0], ((10, 10), (0, 0)), mode="edge")
    calm = np.stack([ends[t : t + 21].mean(0) for t in range(len(poses))])
    calm[:, 1] = 1.0
    return calm


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _fitting(text: str, width: int, size: int = 14) -> str:
    """The text, cut so that it is not wider than some pixels."""
    font = _font(size)
    while text and font.getlength(text) > width:
        text = text[:-2].rstrip() + "…"
    return text


def write_gif(path: Path, frames: Iterable[Image.Image], fps: float) -> None:
    """Write moving pictures that repeat for ever; the format counts hundredths of a second."""
    first, *others = [frame.quantize(32, dither=Image.Dither.NONE) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=round(100 / fps) * 10, loop=0, optimize=False)


def write_mp4(path: Path, frames: Iterable[Image.Image], fps: float) -> None:
    """Write an H.264 film. Raises ValueError without the av package."""
    try:
        import av
    except ImportError as error:
        raise ValueError("MP4 files need the av package: install langevin[motion], or write a .gif") from error
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(frames):
            width, height = (side - side % 2 for side in frame.size)  # the format wants even sides
            if number == 0:
                stream.width, stream.height = width, height
            picture = av.VideoFrame.from_image(frame.crop((0, 0, width, height)))
            file.mux(stream.encode(picture))
        file.mux(stream.encode())


def write_film(
    path: Path,
    clips: Sequence[Tensor],
    fps: float,
    captions: Sequence[str],
    views: Sequence[Camera] = VIEWS,
    skeleton: Skeleton = HUMAN,
) -> None:
    """Write clips (T, J, 3) as .gif or .mp4, one below the other; one that is over waits in its last pose.

    Raises ValueError for another ending.
    """
    suffix = path.suffix.lower()
    if suffix not in {".gif", ".mp4"}:
        raise ValueError(f"films are written as .gif or .mp4, not '{path.suffix}'")
    longest = max(len(clip) for clip in clips)
    padded = [torch.cat([clip, clip[-1:].expand(longest - len(clip), -1, -1)]) for clip in clips]
    rows = [
        film(clip, views, caption=words or " ", skeleton=skeleton) for clip, words in zip(padded, captions, strict=True)
    ]
    (write_gif if suffix == ".gif" else write_mp4)(path, (_stacked(parts) for parts in zip(*rows)), fps)


def _stacked(parts: Sequence[Image.Image]) -> Image.Image:
    page = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), PAPER)
    for place, part in enumerate(parts):
        page.paste(part, (0, place * part.height))
    return page


def sheet(
    clips: Sequence[Tensor],
    captions: Sequence[str],
    columns: int = 8,
    size: int = 150,
    camera: Camera = FRONT,
    skeleton: Skeleton = HUMAN,
) -> Image.Image:
    """A contact sheet: a row for each clip (T, J, 3), some moments of it from left to right under its caption."""
    head = 22
    page = Image.new("RGB", (columns * size, len(clips) * (size + head)), PAPER)
    pen = ImageDraw.Draw(page)
    for row, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
        check(clip, skeleton)
        poses, top = faced(clip, skeleton).double().cpu().numpy(), row * (size + head)
        for column, frame in enumerate(np.linspace(0, len(poses) - 1, columns).round().astype(int)):
            page.paste(draw_pose(poses, int(frame), camera, size, skeleton), (column * size, top + head))
        pen.text((6, top + 3), _fitting(caption, page.width - 12), fill=INK, font=_font(14))
    return page
