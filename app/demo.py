"""`langevin demo`: train on real handwritten digits, sample several ways, and show what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from app.options import option, parse
from app.sampling import digest, draw, newest
from app.way import describe
from core.evaluation.distances import ConfidenceInterval
from core.grid import GRIDS
from core.recipe import Loaded, Sampling, build, load
from core.sample import SAMPLERS
from core.train.loop import Run, train

ABOUT = """Train the tiny EDM recipe on scikit-learn's 1,297 real training digits, draw digits with five samplers,
measure each against 500 held-out digits, and write a sheet of samples. Minutes on two CPU cores.
Run it again and it goes on from the trained model.

Example:
  langevin demo --steps 400 --out runs/demo"""

WAYS = (
    ("heun", "karras", 18),
    ("dpmpp_2m", "karras", 20),
    ("unipc", "karras", 12),
    ("edm", "karras", 25),
    ("ddpm", "karras", 60),
)


@dataclass(frozen=True)
class Options:
    """What `langevin demo` takes."""

    out: Path = option(Path("runs/demo"), "the folder of the run and the sheet")
    steps: int = option(1600, "training steps")
    count: int = option(500, "samples that each sampler is measured on")
    seed: int = option(0, "seed of everything")


def main(words: Sequence[str]) -> None:
    """Train unless it is done, sample, measure, show."""
    options, _ = parse(Options, "langevin demo", ABOUT, words)
    if options.count < 100:
        raise ValueError("--count must be at least 100, or the figures would mean nothing")
    recipe = build("image.recipes.edm.tiny", {"steps": options.steps})
    recipe = replace(recipe, training=replace(recipe.training, seed=options.seed))
    torch.set_num_threads(1)  # at 8 x 8 pixels a second thread costs more than it brings
    print("training on 1,297 real digits (8x8, ten classes)", flush=True)
    started = time.perf_counter()
    path = train(
        recipe, Run(options.out, log_every=250, save_every=500, validate_every=0, sample_every=0, tensorboard=False)
    )
    print(f"trained in {time.perf_counter() - started:.0f} s; sampling", flush=True)
    loaded = load(newest(path))
    table(loaded, options)
    sheet(loaded, path, options)


def table(loaded: Loaded, options: Options) -> None:
    """A line for each way to sample: quality, evaluations, seconds."""
    from rich.console import Console
    from rich.table import Table

    assert loaded.recipe.evaluate is not None
    evaluate = loaded.recipe.evaluate()
    asked = loaded.recipe.ask(options.seed, range(options.count))
    shown = Table("sampler", "steps", "evaluations", "Frechet distance [95 %]", "asked digit", "seconds", box=None)
    for name, grid, steps in WAYS:
        info = SAMPLERS[name]
        sampling = Sampling(info.sampler, GRIDS[grid], steps)
        started = time.perf_counter()
        samples = drawn(loaded, options, sampling)
        seconds = time.perf_counter() - started
        figures = evaluate(samples, asked)
        distance, read = figures["Frechet distance to held-out"], figures["read as the asked class"]
        assert isinstance(distance, ConfidenceInterval) and isinstance(read, float)
        shown.add_row(name, str(steps), str(info.count(steps)), str(distance), f"{100 * read:.1f} %", f"{seconds:.1f}")
    Console().print(shown)
    floor = figures["Frechet distance, real training images"]
    assert isinstance(floor, ConfidenceInterval)
    print(f"real training digits against the same held-out digits: {floor.value:.4g}")


def drawn(loaded: Loaded, options: Options, sampling: Sampling, batch: int = 250) -> Tensor:
    """The samples 0 to count - 1."""
    starts = range(0, options.count, batch)
    numbers = [range(start, min(start + batch, options.count)) for start in starts]
    return torch.cat([draw(loaded.recipe, loaded.system, options.seed, part, sampling) for part in numbers])


def sheet(loaded: Loaded, path: Path, options: Options) -> None:
    """Ten columns, a digit each."""
    assert loaded.recipe.show is not None
    samples = draw(loaded.recipe, loaded.system, options.seed, range(100), loaded.recipe.sampling)
    settings = {
        "checkpoint": str(path),
        "sha256": digest(path),
        "average": None,
        "seed": options.seed,
        "first": 0,
        "count": 100,
        "batch": 256,
        "prompt": None,
        **describe(loaded.recipe.sampling),
    }
    out = options.out / "digits.png"
    loaded.recipe.show(out, samples, settings)
    print(f"{out}: a hundred digits, a column for each class (`langevin replay {out}` makes it again)")
