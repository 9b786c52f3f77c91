"""`langevin demo`: train on real handwritten digits, sample with several samplers, and show the results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.options import parse
from core.flags import option
from core.model import Model, Request
from core.registry import find

ABOUT = """Train the tiny EDM recipe on scikit-learn's 1,297 real training digits, draw digits with five samplers,
measure each against 500 held-out digits, and write a sheet of samples. Minutes on two CPU cores.
Run it again and it goes on from the trained model.

Example:
  langevin demo --steps 400 --out runs/demo"""

SOLVERS = (
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
    import torch

    from core.recipe import build, load
    from core.train.loop import train
    from core.train.run import Run

    if options.count < 100:
        raise ValueError("--count must be at least 100, or the figures would mean nothing")
    recipe = build(find("edm", "tiny")[0], {"steps": options.steps})
    recipe = replace(recipe, training=replace(recipe.training, seed=options.seed))
    torch.set_num_threads(1)  # at 8 x 8 pixels a second thread costs more than it brings
    print("training on 1,297 real digits (8x8, ten classes)", flush=True)
    started = time.perf_counter()
    path = train(
        recipe, Run(options.out, log_every=250, save_every=500, validate_every=0, sample_every=0, tensorboard=False)
    )
    print(f"trained in {time.perf_counter() - started:.0f} s; sampling", flush=True)
    model = load(path)
    table(model, options)
    sheet(model, options)


def table(model: Model, options: Options) -> None:
    """A line for each sampler: quality, evaluations, seconds."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from core.evaluation import names
    from core.evaluation.interval import ConfidenceInterval
    from core.evaluation.options import EvaluationOptions
    from core.sample import SAMPLERS

    assert model.evaluate is not None
    evaluate = model.evaluate(EvaluationOptions())
    request = Request(count=options.count, seed=options.seed, batch=250)
    conditions = request.conditions(model, request.samples())
    shown = Table("sampler", "steps", "evaluations", "Frechet distance [95 %]", "asked digit", "seconds", box=None)
    for name, grid, steps in SOLVERS:
        started = time.perf_counter()
        chosen = replace(request, sampler=name, grid=grid, steps=steps)
        samples = torch.cat([data for data, _ in model.batches(chosen)])
        seconds = time.perf_counter() - started
        figures = evaluate(samples, conditions)
        distance, read = figures[names.FRECHET], figures[names.AS_ASKED]
        assert isinstance(distance, ConfidenceInterval) and isinstance(read, ConfidenceInterval)
        count = str(SAMPLERS[name].count(steps))
        shown.add_row(name, str(steps), count, str(distance), f"{100 * read.value:.1f} %", f"{seconds:.1f}")
    Console().print(shown)
    print(f"one half of the held-out digits against the other: {figures[names.FRECHET + names.REAL]}")


def sheet(model: Model, options: Options) -> None:
    """Ten columns, a digit each."""
    from core.settings import settings_of

    request = model.modality.request(count=100, seed=options.seed, batch=256)
    out = options.out / "digits.png"
    model.modality.write(out, model.sample(request), settings_of(model, request))
    print(f"{out}: a hundred digits, a column for each class (`langevin replay {out}` makes it again)")
