"""`langevin evaluate`: draw samples from a checkpoint and measure them against the recipe's own data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from app.options import option, parse
from app.sampling import Drawing, conditions, drawn, newest, settings_of
from core.evaluation.distances import ConfidenceInterval
from core.recipe import load
from core.weights.checkpoint import write_whole

ABOUT = """Draw samples from a checkpoint and measure them: distances to held-out data with their bootstrap
intervals, precision and recall, nearest training example.

Example:
  langevin evaluate runs/edm-tiny --count 1000 --sampler dpmpp_2m --steps 20"""


@dataclass(frozen=True)
class Options(Drawing):
    """What `langevin evaluate` takes."""

    count: int = option(1000, "how many samples")
    out: Path | None = option(None, "also write the figures to this JSON file")


def main(words: Sequence[str]) -> None:
    """Draw, measure, print a table."""
    options, given = parse(
        Options, "langevin evaluate", ABOUT, words, [("checkpoint", "a .safetensors file, or a run's folder")]
    )
    path = newest(Path(given["checkpoint"]))
    loaded = load(path, options.average)
    if loaded.recipe.evaluate is None:
        raise ValueError(f"the recipe {loaded.recipe.name} does not say how its samples are measured")
    if options.seconds:
        raise ValueError("samples are measured as long as the recipe makes them: leave --seconds out")
    sampling = options.sampling(loaded.recipe)
    samples, seconds = drawn(loaded, options, sampling)
    asked = conditions(loaded.recipe, options.seed, range(options.first, options.first + options.count), options.prompt)
    figures = dict(loaded.recipe.evaluate()(samples, asked)) | {"seconds": round(seconds, 2)}
    show(figures)
    if options.out is not None:
        plain = {
            name: asdict(value) if isinstance(value, ConfidenceInterval) else value for name, value in figures.items()
        }
        page = json.dumps({"figures": plain, "settings": settings_of(path, options, sampling)}, indent=1)
        write_whole(options.out, page.encode())


def show(figures: Mapping[str, object]) -> None:
    """Print figures by name, one a line."""
    width = max(len(name) for name in figures)
    for name, value in figures.items():
        print(f"{name:{width}}  {text(value)}")


def text(value: object) -> str:
    """A figure as a person reads it."""
    if isinstance(value, ConfidenceInterval) and math.isnan(value.low):
        return f"{value.value:.4g}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
