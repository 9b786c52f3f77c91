"""`langevin evaluate`: sample a model and measure the samples against its recipe's own data."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.options import Flag
from app.sampling import AVERAGE, asked
from core.registry import open_model

if TYPE_CHECKING:
    from torch import Tensor

    from core.evaluation.options import Loss
    from core.model import Model, Request
    from core.progress import Progress

ABOUT = """Sample a model and measure the samples: distances to held-out data with their intervals,
precision and recall, how near they come to training examples, the held-out loss, and each figure of
real data beside it. Ends with what to do next.

Example:
  langevin evaluate runs/edm-tiny --count 1000 --sampler dpmpp_2m --steps 20"""


OUT = Flag("out", Path, None, "also write the figures to this JSON file")
JSON = Flag("json", bool, False, "print the figures as JSON, and nothing else, on standard output")
JUDGE_TIME = Flag("judge_time", float, 60.0, "seconds in which data are read and judges are trained")
FEATURES = Flag("features", Path, None, "measure in the features of a network: a folder of CLIP or timm, or a file")
COUNT = 1000  # samples, unless asked otherwise
SAMPLING, JUDGING = 0.4, 0.4  # shares of a time in which all is to be done
TIMED = 64  # samples at once where the time is limited


def main(words: Sequence[str]) -> None:
    """Sample, measure, print a table, and advise."""
    path, _, request, values = asked("langevin evaluate", ABOUT, [OUT, JSON, JUDGE_TIME, FEATURES, AVERAGE], words)
    from core.console import reported
    from core.evaluation.advice import advice
    from core.evaluation.options import EvaluationOptions

    request.check_measurable()
    if not values["judge_time"] > 0:
        raise ValueError(f"--judge-time must be above zero, not {values['judge_time']:g}")
    model = open_model(path, values["average"], request)
    if model.evaluate is None:
        raise ValueError(f"{model.name} does not say how its samples are measured")
    request = request.filled(COUNT, model.usual[1])
    with reported() as progress:
        options = EvaluationOptions(values["judge_time"], progress, values["features"], loss_of(model))
        figures, request = measure(model, request, options)
    next_steps = advice(figures)
    page = as_json(model, request, figures, next_steps)
    if values["json"]:
        print(page)
    else:
        show(figures)
        print(*(f"\n{sentence}" for sentence in next_steps), sep="")
    if values["out"] is not None:
        from core.weights.checkpoint import write_whole

        write_whole(values["out"], page.encode())


def measure_within(
    model: Model, request: Request, seconds: float, progress: Progress
) -> tuple[dict[str, object], Request]:
    """Figures of a model, reached within some seconds of wall clock, and the request with as many samples as fitted."""
    from core.evaluation.options import EvaluationOptions

    options = EvaluationOptions(JUDGING * seconds, progress, loss=loss_of(model))
    return measure(model, request.filled(COUNT, TIMED), options, SAMPLING * seconds)


def measure(
    model: Model, request: Request, options: Any, seconds: float = math.inf
) -> tuple[dict[str, object], Request]:
    """Figures of a model's samples, and the request with the samples that were drawn within ``seconds``.

    Raises ValueError for a model that has no evaluation.
    """
    import torch

    from core.evaluation.options import HasConditions
    from core.prompts import WithDefault

    if model.evaluate is None:
        raise ValueError(f"{model.name} does not say how its samples are measured")
    evaluate = model.evaluate(options)
    if isinstance(evaluate, HasConditions):
        model = dataclasses.replace(model, prompts=WithDefault(model.prompts, evaluate.conditions))
    began = time.monotonic()
    samples: list[Tensor] = []
    size = request.batch or TIMED
    parts = -(-(request.count or 1) // size)
    for data, _ in options.progress.track(model.batches(request), "sampling", parts):
        samples.append(data)
        spent = time.monotonic() - began
        if spent * (1 + 1 / len(samples)) > seconds:
            break
    made = torch.cat(samples)
    request = dataclasses.replace(request, count=len(made))
    sampling = round(time.monotonic() - began, 2)
    figures = evaluate(made, request.conditions(model, request.samples()))
    return {**figures, "seconds": sampling}, request


def loss_of(model: Model) -> Loss | None:
    """The loss of a model's objective, for an evaluation; None for a model that others published."""
    import torch

    from core.random import Stream, TrainingRNG

    if model.published:
        return None

    def loss(batch: Mapping[str, Any], numbers: Sequence[int]) -> Tensor:
        fixed = TrainingRNG(SEED, list(numbers))
        with torch.no_grad():
            return model.system.loss(batch, fixed, fixed.low_discrepancy(Stream.TIME)).each

    return loss


SEED = 2**63 + 1  # that no run has


def show(figures: Mapping[str, object]) -> None:
    """Print a table: a figure a line, beside it that of real data, and that of chance where there is one."""
    from core.evaluation.names import CHANCE, REAL

    own = {name: value for name, value in figures.items() if not name.endswith((REAL, CHANCE))}
    rows = [("", "samples", "real")] if any(name.endswith(REAL) for name in figures) else []
    for name, value in own.items():
        real = text(figures[name + REAL]) if name + REAL in figures else ""
        blind = f"  (chance {text(figures[name + CHANCE])})" if name + CHANCE in figures else ""
        rows.append((name, text(value), real + blind))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    for name, sampled, real in rows:
        print(f"{name:{first}}  {sampled:{second}}  {real}".rstrip())


def text(value: object) -> str:
    """A figure as a person reads it."""
    from core.evaluation.interval import ConfidenceInterval

    if isinstance(value, ConfidenceInterval):
        ends = "" if math.isnan(value.low) else f" [{value.low:.3g}, {value.high:.3g}]"
        return f"{value.value:.3g}{ends}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def as_json(model: Model, request: Request, figures: Mapping[str, object], next_steps: Sequence[str]) -> str:
    """Figures, the settings that they are of, and the advice, as JSON."""
    from core.settings import settings_of

    page = {"figures": plain(figures), "advice": list(next_steps), "settings": settings_of(model, request)}
    return json.dumps(page, indent=1)


def plain(figures: Mapping[str, object]) -> dict[str, object]:
    """Figures as JSON keeps them: an interval is a table of its value and its ends, and what is no number is null."""
    from core.evaluation.interval import ConfidenceInterval

    def kept(value: object) -> object:
        if isinstance(value, ConfidenceInterval):
            return {name: kept(number) for name, number in dataclasses.asdict(value).items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: kept(value) for name, value in figures.items()}
