"""`langevin evaluate`: sample a model and measure the samples against its recipe's own data."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from app.options import Flag
from app.sampling import AVERAGE, asked
from core.registry import open_model

ABOUT = """Sample a model and measure the samples: distances to held-out data with their
intervals, precision and recall, nearest training example.

Example:
  langevin evaluate runs/edm-tiny --count 1000 --sampler dpmpp_2m --steps 20"""


OUT = Flag("out", Path, None, "also write the figures to this JSON file")
COUNT = 1000  # samples, unless asked otherwise


def main(words: Sequence[str]) -> None:
    """Sample, measure, print a table."""
    path, _, request, values = asked("langevin evaluate", ABOUT, [OUT, AVERAGE], words)
    import torch

    from core.evaluation.interval import ConfidenceInterval
    from core.evaluation.options import EvaluationOptions
    from core.settings import settings_of
    from core.weights.checkpoint import write_whole

    request.check_measurable()
    model = open_model(path, values["average"], request)
    if model.evaluate is None:
        raise ValueError(f"{model.name} does not say how its samples are measured")
    request = request.filled(COUNT, model.usual[1])
    started = time.perf_counter()
    samples = torch.cat([data for data, _ in model.batches(request)])
    seconds = time.perf_counter() - started
    conditions = request.conditions(model, request.samples())
    figures = dict(model.evaluate(EvaluationOptions())(samples, conditions)) | {"seconds": round(seconds, 2)}
    show(figures)
    if values["out"] is not None:
        plain = {
            name: asdict(value) if isinstance(value, ConfidenceInterval) else value for name, value in figures.items()
        }
        page = json.dumps({"figures": plain, "settings": settings_of(model, request)}, indent=1)
        write_whole(values["out"], page.encode())


def show(figures: Mapping[str, object]) -> None:
    """Print figures by name, one a line."""
    width = max(len(name) for name in figures)
    for name, value in figures.items():
        print(f"{name:{width}}  {text(value)}")


def text(value: object) -> str:
    """A figure as a person reads it."""
    from core.evaluation.interval import ConfidenceInterval

    if isinstance(value, ConfidenceInterval) and math.isnan(value.low):
        return f"{value.value:.4g}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
