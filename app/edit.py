"""`langevin edit`: change a picture with a trained model, and write what came out with the settings that made it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from app.edits import METHODS, OPERATORS, Job, Options, changed, inpainted, inverted, restored, shape_of
from app.names import look_up
from app.options import parse
from app.sampling import digest, newest, opened, warn_of_cuts, words_of
from app.way import describe
from core.random import Noise
from core.sample.euler import euler

ABOUT = """Edit a picture with a checkpoint that `langevin train` wrote, the newest in a run's folder, or a published
pipeline: a folder with model_index.json.
Image to image is what it does by itself; --mask inpaints, --invert goes to the picture's own noise and back,
--restore takes the picture for a measurement of what is wanted. Pictures are scaled and cropped to the model's size.
Example: langevin edit runs/ldm-tiny picture.png --prompt "a red 7 on white" --strength 0.6 --out edited.png"""


def main(words: Sequence[str]) -> None:
    """Edit, write, say what it took."""
    places = [
        ("checkpoint", "a .safetensors file, or a run's or pipeline's folder"),
        ("picture", "the picture to edit"),
    ]
    from image.published.scheduler import plain

    options, given = parse(Options, "langevin edit", ABOUT, words, places)
    kind, edit = chosen(options)
    path, picture = newest(Path(given["checkpoint"])), Path(given["picture"])
    loaded = opened(path, options.average, options.size)
    way = options.sampling(loaded.recipe)
    way = dataclasses.replace(way, sampler=plain(way.sampler))
    warn_of_cuts(loaded.system, [options.prompt, options.avoid, options.shows])
    job = Job(
        loaded,
        options,
        dataclasses.replace(way, sampler=euler) if options.invert else way,
        Noise(options.seed, range(options.first, options.first + options.count)),
        shape_of(loaded),
        picture,
    )
    started = time.perf_counter()
    with torch.no_grad():
        made = edit(job)
    settings = settings_of(kind, path, picture, job)
    write(options.out, made, settings)
    took = f"{time.perf_counter() - started:.1f} s"
    print(f"{options.out}: {picture.name}, {kind}, in {took}, {words_of(settings)}")


def chosen(options: Options) -> tuple[str, Callable[[Job], Tensor]]:
    """Which edit is meant. Raises ValueError for options that contradict each other or lie out of range."""
    if options.invert and (options.mask or options.restore):
        raise ValueError("--invert goes alone: leave out --mask and --restore, or --invert")
    if options.restore == "mask" and options.mask is None:
        raise ValueError("say with --mask what is missing: a picture of the same size, white where nothing is known")
    if options.strength is not None and (options.mask or options.restore):
        raise ValueError("--strength is of image to image and of --invert: leave it out with --mask and --restore")
    if options.strength is not None and not 0 <= options.strength <= 1:
        raise ValueError(f"--strength lies in 0 (nothing changes) to 1 (all is new), not at {options.strength}")
    if options.invert and options.sampler is not None:
        raise ValueError("--invert walks the steps of Euler's method back and down again: leave --sampler out")
    if options.count < 1 or options.first < 0 or options.repaint < 1:
        raise ValueError("--count and --repaint must be at least 1, and --first at least 0")
    if options.factor < 1 or not 0 < options.blur < math.inf or not 0 <= options.pull < math.inf:
        raise ValueError("--factor must be at least 1, --blur above 0, and --pull finite and not negative")
    if options.restore is not None:
        look_up("measurement", options.restore, OPERATORS, "langevin edit --help")
        look_up("method", options.method, METHODS, "langevin edit --help")
        return f"restored from {options.restore}", restored
    if options.mask is not None:
        return "inpainted", inpainted
    return ("inverted", inverted) if options.invert else ("image to image", changed)


def settings_of(kind: str, path: Path, picture: Path, job: Job) -> dict[str, object]:
    """Everything that makes the same edit again."""
    plain: dict[str, object] = {"edit": kind, "picture": str(picture), "picture_sha256": digest(picture)}
    for field in dataclasses.fields(Options):
        value = getattr(job.options, field.name)
        plain[field.name] = str(value) if isinstance(value, Path) else value
    if job.options.mask is not None:
        plain["mask_sha256"] = digest(job.options.mask)
    del plain["out"]
    said: Mapping[str, object] = {"checkpoint": str(path), "sha256": digest(path), **describe(job.way)}
    return {**plain, **said}


def write(path: Path, made: Tensor, settings: dict[str, object]) -> None:
    """One result as it is, several as a sheet."""
    from image.sheet import picture, save_page, save_sheet

    if len(made) == 1:
        save_page(path, picture(made[0]), settings)
    else:
        save_sheet(path, made, settings)
