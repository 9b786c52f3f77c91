"""`langevin sample`: draw samples from a checkpoint and write them with the settings that made them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.controls import control_of, led, told_control
from app.loras import worn
from app.options import option, parse
from app.refined import Refiner, size_of
from app.way import Way, describe
from core.random import SamplingRNG
from core.recipe import Loaded, Recipe, Sampling, load, told
from core.sample.step import run
from core.systems.compiled import compile_for_sampling
from core.systems.diffusion import Diffusion

ABOUT = """Draw samples from a checkpoint that `langevin train` wrote, from the newest in a run's folder, or from a
published pipeline: a folder with model_index.json, of which one sample is drawn unless --count says more.

Example:
  langevin sample runs/edm-tiny --count 64 --sampler heun --grid karras --steps 18 --prompt 3"""


@dataclass(frozen=True)
class Drawing(Way):
    """Which samples to draw, and how."""

    count: int = option(64, "how many samples")
    first: int = option(0, "the number of the first sample")
    prompt: str | None = option(None, "what to ask for: a class, several classes in turn (0,1,2), or a caption")
    avoid: str | None = option(None, "a negative prompt: what guidance moves away from")
    average: str | None = option(None, "which average of the weights; 'model' for the weights themselves")
    batch: int = option(256, "samples drawn at once; changes speed and memory, not the samples")
    seconds: tuple[float, ...] = option(
        (), "for recordings: prompts follow one another, each for so many seconds, or all for as many"
    )
    lora: tuple[str, ...] = option((), "LoRA files to wear, each with a weight if wanted: style.safetensors:0.8")
    controlnet: str | None = option(
        None, "for a published pipeline: a ControlNet's folder, with a scale if wanted: folder:0.8"
    )
    control: str | None = option(None, "the picture that a ControlNet follows, as it is: for ours, a map of edges")
    edges: str | None = option(None, "a picture whose edges a ControlNet follows")
    refiner: str | None = option(None, "an SDXL refiner, a folder or checkpoint, for the last fifth of the noise")
    compile: bool = option(False, "compile the network first: worth it for many steps or many batches of one size")


@dataclass(frozen=True)
class Options(Drawing):
    """What `langevin sample` takes."""

    out: Path = option(Path("samples.png"), "the file to write")
    size: tuple[int, ...] | None = option(None, "of a published pipeline's pictures: a side, or height and width")


def main(words: Sequence[str]) -> None:
    """Draw, write, say what it took."""
    options, given = parse(
        Options,
        "langevin sample",
        ABOUT,
        words,
        [("checkpoint", "a .safetensors file, or a run's or pipeline's folder")],
    )
    path = newest(Path(given["checkpoint"]))
    if path.is_dir():
        given_names = {word.split("=")[0] for word in words}
        count = options.count if "--count" in given_names else 1
        batch = options.batch if "--batch" in given_names else 1
        options = dataclasses.replace(options, count=count, batch=batch)
    loaded = opened(path, options.average, options.size)
    sampling = options.sampling(loaded.recipe)
    warn_of_cuts(loaded.system, [options.prompt, options.avoid])
    samples, seconds = drawn(loaded, options, sampling)
    numbers = range(options.first, options.first + options.count)
    if options.seconds:
        said: dict[str, object] = {"captions": [options.prompt] * options.count}
    else:
        said = told(conditions(loaded.recipe, options.seed, numbers, options.prompt))
    settings = settings_of(path, options, sampling) | said | ({"size": options.size} if options.size else {})
    if loaded.recipe.show is None:
        raise ValueError(f"the recipe {loaded.recipe.name} does not say how its samples are written")
    loaded.recipe.show(options.out, samples, settings)
    print(f"{options.out}: {options.count} samples in {seconds:.1f} s, {words_of(settings)}")


def opened(path: Path, average: str | None, size: Sequence[int] | None = None) -> Loaded:
    """A checkpoint's model, or a published pipeline's for pictures of a size. Raises ValueError where it cannot be."""
    if path.is_dir():
        from image.published import open_pipeline

        if average is not None:
            raise ValueError(f"{path} is a published pipeline, which has no averages: leave --average out")
        if size is not None and len(size) not in (1, 2):
            raise ValueError("--size is one side, or height and width")
        return open_pipeline(path, None if size is None else (size[0], size[-1])).loaded()
    if size is not None:
        raise ValueError(f"{path} has a size of its own, and only published pipelines are given one: leave --size out")
    return load(path, average)


def warn_of_cuts(system: Diffusion, typed: Sequence[str | None]) -> None:
    """Say on stderr which ends of what was typed are longer than the model reads."""
    from core.condition.pretrained import PretrainedText

    if isinstance(system.conditioner, PretrainedText):
        for cut in system.conditioner.truncated([text for text in typed if text]):
            if cut:
                shown = textwrap.shorten(cut, 100, placeholder=" ...")
                print(f"langevin: the prompt is longer than this model reads, without '{shown}'", file=sys.stderr)


def drawn(loaded: Loaded, options: Drawing, sampling: Sampling) -> tuple[Tensor, float]:
    """The samples and the seconds that they took."""
    if options.count < 1 or options.batch < 1 or options.first < 0:
        raise ValueError("--count and --batch must be at least 1, and --first at least 0")
    base, loaded = loaded, led(loaded, options.controlnet)
    if options.compile:
        compile_for_sampling(loaded.system)
    if options.seconds and (options.avoid or options.refiner):
        raise ValueError("prompts that follow one another are sampled without --avoid and --refiner: leave them out")
    refiner = refiner_of(options, loaded)
    asked = options.prompt is not None or options.controlnet is not None
    control = control_of(loaded.recipe, asked, options.control, options.edges)
    started = time.perf_counter()
    numbers = range(options.first, options.first + options.count)
    found = []
    with worn(base.system, options.lora):
        for start in range(0, len(numbers), options.batch):
            part = numbers[start : start + options.batch]
            if options.seconds:
                noise = SamplingRNG(options.seed, part)
                found.append(followed(loaded.recipe, loaded.system, options.prompt, options.seconds, noise, sampling))
                continue
            typed = (options.prompt, options.avoid)
            found.append(draw(loaded.recipe, loaded.system, options.seed, part, sampling, *typed, refiner, control))
    return torch.cat(found), time.perf_counter() - started


def refiner_of(options: Drawing, base: Loaded) -> Refiner | None:
    """The refiner that was asked for, at the size of the base's pictures. Raises ValueError for another size."""
    if options.refiner is None:
        return None
    path = newest(Path(options.refiner))
    found = opened(path, None, size_of(base) if path.is_dir() else None)
    if found.recipe.shape != base.recipe.shape:
        raise ValueError(
            f"{path} takes latents of {found.recipe.shape}, where these are {base.recipe.shape}: give their refiner"
        )
    return Refiner(found.system, options.sampling(found.recipe))


def conditions(recipe: Recipe, seed: int, samples: Sequence[int], prompt: str | None) -> Mapping[str, Any]:
    """What samples are asked for: what was typed, or what the recipe asks by itself."""
    if prompt is None:
        return recipe.ask(seed, samples)
    if recipe.understand is None:
        raise ValueError("this model is unconditional: leave --prompt out")
    return recipe.understand(prompt, len(samples))


def draw(
    recipe: Recipe,
    system: Diffusion,
    seed: int,
    samples: Sequence[int],
    sampling: Sampling,
    prompt: str | None = None,
    avoid: str | None = None,
    refiner: Refiner | None = None,
    control: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Decoded samples with these numbers (len(samples), ...), on the host. Raises ValueError when they diverged.

    control: what all samples follow (1, ...), beside what else they are asked for.
    """
    noise, asked = SamplingRNG(seed, samples), dict(conditions(recipe, seed, samples, prompt))
    asked |= {name: value.expand(len(samples), *value.shape[1:]) for name, value in (control or {}).items()}
    unwanted = None if avoid is None else conditions(recipe, seed, samples, avoid)
    if refiner is not None:
        x = refiner.walk(system, recipe.shape, sampling, noise, asked, unwanted)
    else:
        steps = system.sample(
            noise,
            recipe.shape,
            asked,
            sampler=sampling.sampler,
            grid=sampling.grid,
            steps=sampling.steps,
            guidance=sampling.guidance,
            guide=sampling.guide,
            avoid=unwanted,
        )
        x = run(steps)
    return finished(system, x)


def followed(
    recipe: Recipe,
    system: Diffusion,
    prompt: str | None,
    seconds: Sequence[float],
    noise: SamplingRNG,
    sampling: Sampling,
) -> Tensor:
    """Decoded recordings in which prompts follow one another. Raises ValueError where the recipe cannot."""
    if recipe.follow is None:
        raise ValueError(f"{recipe.name} makes nothing that goes on in time: leave --seconds out")
    if prompt is None:
        raise ValueError("--seconds says how long each prompt lasts: say with --prompt what follows what")
    return finished(system, recipe.follow(system, prompt, seconds, noise, sampling))


def finished(system: Diffusion, x: Tensor) -> Tensor:
    """What was sampled, decoded, on the host. Raises ValueError when it diverged."""
    if not bool(x.isfinite().all()):
        raise ValueError("sampling diverged (NaN or infinity): take more steps, less guidance or another sampler")
    return system.decode(x).cpu()


def newest(path: Path) -> Path:
    """The path itself, if it is a file or a published pipeline, or the newest checkpoint in a run's folder."""
    if not path.is_dir() or (path / "model_index.json").is_file():
        return path
    found = sorted(path.glob("*.safetensors")) or sorted(path.glob("*/*.safetensors"))
    if not found:
        raise ValueError(f"{path} holds no checkpoint: give a .safetensors file, or the folder of a run")
    return found[-1]


def settings_of(path: Path, options: Drawing, sampling: Sampling) -> dict[str, object]:
    """Everything that makes the same samples again."""
    return {
        "checkpoint": str(path),
        "sha256": digest(path),
        "average": options.average,
        "seed": options.seed,
        "first": options.first,
        "count": options.count,
        "batch": options.batch,
        "prompt": options.prompt,
        "avoid": options.avoid,
        **({"seconds": list(options.seconds)} if options.seconds else {}),
        "lora": list(options.lora),
        **told_control(options.controlnet, options.control, options.edges),
        **(
            {"refiner": options.refiner, "refiner_sha256": digest(newest(Path(options.refiner)))}
            if options.refiner
            else {}
        ),
        **describe(sampling),
    }


def digest(path: Path) -> str:
    """The SHA-256 of a file; of a folder, that of the names and contents of its tables and weights."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in (".json", ".safetensors"))
        names = [f"{file.relative_to(path)} {digest(file)}" for file in files]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def words_of(settings: Mapping[str, Any]) -> str:
    """The settings a person wants to read."""
    sampler = settings["sampler"] or "the recipe's sampler"
    grid = settings["grid"] or "the recipe's grid"
    guidance = settings["guidance"]
    guided = "" if math.isclose(guidance, 1) else f", guidance {guidance:g}"
    return f"{sampler} on {grid}, {settings['steps']} steps{guided}, seed {settings['seed']}"
