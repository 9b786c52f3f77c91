"""`langevin edit`: change a picture or a recording with a trained model, and write it with what made it."""

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
from app.recordings import OF_PICTURES, OF_RECORDINGS, refuse, revised
from app.sampling import digest, newest, opened, warn_of_cuts, words_of
from app.way import describe
from core.random import SamplingRNG
from core.recipe import Loaded, Recipe, Sampling
from core.sample.euler import euler

ABOUT = """Edit a picture or a recording with a checkpoint that `langevin train` wrote, the newest in a run's folder, or
a published pipeline: a folder with model_index.json.
Image to image is what it does by itself; --mask inpaints, --invert goes to the picture's own noise and back,
--restore takes the picture for a measurement of what is wanted. Pictures are scaled and cropped to the model's size.

Example:
  langevin edit runs/ldm-tiny picture.png --prompt "a red 7 on white" --strength 0.6 --out edited.png

Of a recording, such as a motion in a .bvh or .npz file, --keep says which frames stay, --part what of it moves anew,
--seconds how long it goes on.

Example:
  langevin edit runs/mdm clip.bvh --prompt "a person waves the left hand" --keep 0:20,60: --out between.gif"""


def main(words: Sequence[str]) -> None:
    """Edit, write, say what it took."""
    places = [
        ("checkpoint", "a .safetensors file, or a run's or pipeline's folder"),
        ("file", "the picture or recording to edit"),
    ]
    options, given = parse(Options, "langevin edit", ABOUT, words, places)
    way_of_editing = chosen(options)
    path, file = newest(Path(given["checkpoint"])), Path(given["file"])
    loaded = opened(path, options.average, options.size)
    warn_of_cuts(loaded.system, [options.prompt, options.avoid, options.shows])
    started = time.perf_counter()
    if loaded.recipe.revise is not None:
        refuse(options, OF_PICTURES, "pictures, and this model makes recordings")
        kind, made, way = "changed", *revised(loaded, options, file)
    else:
        refuse(options, OF_RECORDINGS, "recordings, and this model makes none")
        kind, made, way = way_of_editing[0], *edited(loaded, options, file, way_of_editing[1])
    settings = settings_of(kind, path, file, options, way)
    write(loaded.recipe, options, made, settings)
    took = f"{time.perf_counter() - started:.1f} s"
    print(f"{options.out}: {file.name}, {kind}, in {took}, {words_of(settings)}")


def edited(loaded: Loaded, options: Options, file: Path, edit: Callable[[Job], Tensor]) -> tuple[Tensor, Sampling]:
    """An edit of a picture, and the way it was sampled."""
    from image.published.scheduler import plain

    way = options.sampling(loaded.recipe)
    way = dataclasses.replace(way, sampler=euler if options.invert else plain(way.sampler))
    noise = SamplingRNG(options.seed, range(options.first, options.first + options.count))
    with torch.no_grad():
        return edit(Job(loaded, options, way, noise, shape_of(loaded), file)), way


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


def settings_of(kind: str, path: Path, file: Path, options: Options, way: Sampling) -> dict[str, object]:
    """Everything that makes the same edit again."""
    plain: dict[str, object] = {"edit": kind, "picture": str(file), "picture_sha256": digest(file)}
    for field in dataclasses.fields(Options):
        value = getattr(options, field.name)
        plain[field.name] = str(value) if isinstance(value, Path) else value
    if options.mask is not None:
        plain["mask_sha256"] = digest(options.mask)
    del plain["out"]
    said: Mapping[str, object] = {"checkpoint": str(path), "sha256": digest(path), **describe(way)}
    return {**plain, **said}


def write(recipe: Recipe, options: Options, made: Tensor, settings: dict[str, object]) -> None:
    """A recording as its recipe writes it; one picture as it is, several as a sheet."""
    from image.sheet import picture, save_page, save_sheet

    if recipe.revise is not None and recipe.show is not None:
        recipe.show(options.out, made, settings | {"captions": [options.prompt or ""] * len(made)})
    elif len(made) == 1:
        save_page(options.out, picture(made[0]), settings)
    else:
        save_sheet(options.out, made, settings)
