"""Training within a time: the run is planned, its stages are trained one after another, and the model is measured."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import re
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.processes import side_by_side
from core.registry import modalities, newest, open_model, presets

if TYPE_CHECKING:
    from core.fit.plan import Plan, Stage
    from core.recipe import Recipe
    from core.train.run import Run

CLOCK = "clock.json"
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
USUAL = 1800.0  # seconds, where neither a time nor steps are given
LEAST = 120.0  # seconds for the evaluation of a run that has no time
Change = Callable[["Recipe"], "Recipe"]
Runs = Callable[[Path], "Run"]


def seconds_of(text: str) -> float:
    """The seconds in "90", "15m" or "1h30m". Raises ValueError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms]?)", text.strip().lower())
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text.strip().lower():
        raise ValueError(f"--time is a number of seconds, or such as 15m or 1h30m, not '{text}'")
    found = sum(float(number) * UNITS[unit or "s"] for number, unit in parts)
    if found <= 0:
        raise ValueError("--time must be above zero")
    return found


@dataclass(frozen=True)
class Elapsed:
    """How much of its time a run has used, over all commands that went on with it."""

    folder: Path
    used: float  # by commands before this one
    since: float  # ``time.time`` when this one began

    @property
    def seconds(self) -> float:
        """All of it, now."""
        return self.used + time.time() - self.since

    def write(self, running: bool) -> None:
        """Keep it beside the run."""
        from core.files import whole

        known = {"used": self.used, "since": self.since} if running else {"used": self.seconds, "since": None}
        with whole(self.folder / CLOCK) as draft:
            draft.write_text(json.dumps(known) + "\n")


def read_elapsed(folder: Path, since: float) -> Elapsed:
    """What a run has used so far; where it was killed, up to the last thing it wrote."""
    path = folder / CLOCK
    if not path.is_file():
        return Elapsed(folder, 0.0, since)
    try:
        known = json.loads(path.read_text())
        used, began = float(known["used"]), known["since"]
        if began is not None:
            last = max((file.stat().st_mtime for file in folder.rglob("log.jsonl")), default=float(began))
            used += max(0.0, last - float(began))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: delete it, and the run has all of its time again") from error
    return Elapsed(folder, used, since)


def running(folder: Path) -> Elapsed:
    """The clock of a run that another process has started."""
    known = json.loads((folder / CLOCK).read_text())
    return Elapsed(folder, float(known["used"]), float(known["since"]))


def show_plan(plan: Plan) -> None:
    """Print what was chosen."""
    rows = plan.table()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        lines = textwrap.wrap(value, 100 - width - 2, break_long_words=False) or [""]
        for index, line in enumerate(lines):
            print(f"{name if index == 0 else '':{width}}  {line}", flush=True)


@dataclass(frozen=True)
class Asked:
    """What the command says."""

    recipe: str  # dotted name
    given: Mapping[str, Any]  # the arguments of the recipe that were typed
    folder: Path
    time: str | None
    dry_run: bool
    processes: int | None
    cpu: bool

    @property
    def seconds(self) -> float | None:
        """The time for everything; half an hour where neither time nor steps are given."""
        return seconds_of(self.time) if self.time is not None else None if "steps" in self.given else USUAL

    def record(self) -> dict[str, Any]:
        """What a run must be asked for again to go on."""
        given = json.loads(json.dumps(dict(self.given)))
        return {"recipe": self.recipe, "given": given, "seconds": self.seconds, "processes": self.processes}


def train_own(words: Sequence[str], asked: Asked, change: Change, run_of: Runs) -> Path | None:
    """Plan a run, train all its stages in as many processes as that says, and measure the result.

    words: the command, which other processes are started with; change, run_of: what else it says of the training.
    Returns the last checkpoint, or None where the plan was only to be shown.
    """
    from core.fit.plan import read_plan, started

    folder = asked.folder
    if "RANK" in os.environ:
        plan = read_plan(folder)
        assert plan is not None
        return _stages(plan, folder, running(folder), change, run_of)
    plan = planned(asked)
    show_plan(plan)
    if asked.dry_run:
        return None
    elapsed = read_elapsed(folder, started())
    elapsed.write(running=True)
    try:
        if plan.processes > 1:
            if status := side_by_side(words, plan.processes):
                raise SystemExit(status)
            path = newest(folder)
        else:
            path = _stages(plan, folder, elapsed, change, run_of)
        evaluate(path, folder, None if plan.seconds is None else plan.seconds - elapsed.seconds)
    finally:
        elapsed.write(running=False)
    return path


def planned(asked: Asked) -> Plan:
    """The plan of a run: that of its folder where the same was asked for, or a new one, which is stored.

    Raises ValueError where the folder holds a run that was asked for otherwise.
    """
    from core.fit.machine import this_machine
    from core.fit.plan import make_plan, read_plan, started

    folder, record = asked.folder, asked.record()
    known = read_plan(folder)
    if known is not None and known.asked == record:
        return known
    if any(folder.rglob("*.safetensors")):
        raise ValueError(
            f"{folder} holds a run that was asked for otherwise{_difference(known, record)}: "
            "repeat its command to go on with it, or give another --out"
        )
    began = started()
    left = None if asked.seconds is None else asked.seconds - (time.time() - began)
    given = decided(asked.recipe, asked.given) | dict(asked.given)
    plan = make_plan(asked.recipe, given, folder, record, this_machine(asked.cpu), left, asked.processes)
    plan = dataclasses.replace(plan, seconds=asked.seconds)
    if not asked.dry_run:
        plan.save(folder)
        Elapsed(folder, 0.0, began).write(running=True)
    return plan


def decided(recipe: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a recipe that its data decide."""
    if "data" not in given:
        raise ValueError("give --data: the preset own learns from your own data")
    module, preset = recipe.rsplit(".", 1)
    function = presets(importlib.import_module(module))[preset]
    found = modalities()[recipe.split(".")[0]].own_arguments(Path(given["data"]))
    return {name: value for name, value in found.items() if name in inspect.signature(function).parameters}


def _difference(known: Plan | None, record: Mapping[str, Any]) -> str:
    if known is None:
        return ""
    name = next((name for name in record if known.asked.get(name) != record[name]), None)
    return "" if name is None else f" ({name} was {known.asked.get(name)}, not {record[name]})"


def _stages(plan: Plan, folder: Path, elapsed: Elapsed, change: Change, run_of: Runs) -> Path:
    from core.recipe import build
    from core.train.loop import train

    path = folder
    for index, stage in enumerate(plan.stages):
        recipe = change(build(stage.recipe, stage.arguments))
        run = with_rhythm(run_of(folder / stage.folder), stage)
        if index < len(plan.stages) - 1:
            run = dataclasses.replace(run, sample_every=0, tensorboard=False)
        if plan.seconds is not None:
            left = plan.end_of(index) - elapsed.seconds
            run = dataclasses.replace(run, deadline=time.monotonic() + left)
        path = train(recipe, run)
    return path


def with_rhythm(run: Run, stage: Stage) -> Run:
    """A run that speaks as often as its length needs; what is 0, never, stays so."""
    steps = stage.steps
    return dataclasses.replace(
        run,
        stage=stage.recipe.split(".")[-2],
        log_every=min(run.log_every, max(1, steps // 100)),
        save_every=min(run.save_every, max(1, steps // 10)),
        validate_every=min(run.validate_every, max(1, steps // 10)),
        sample_every=min(run.sample_every, max(1, steps // 4)),
    )


def evaluate(path: Path, folder: Path, left: float | None) -> None:
    """Measure what was trained, within the seconds that are left, and say and keep how good it is."""
    import torch

    from app.evaluation import as_json, measure_within, show
    from core.console import reported
    from core.evaluation.advice import advice
    from core.files import whole
    from core.fit.machine import usable_cores

    model = open_model(path)
    if model.evaluate is None:
        return
    torch.set_num_threads(usable_cores())
    with reported() as progress:
        budget = max(LEAST if left is None else left, 2.0)
        figures, request = measure_within(model, model.modality.request(), budget, progress)
    next_steps = advice(figures)
    show(figures)
    print(*(f"\n{sentence}" for sentence in next_steps), sep="", flush=True)
    with whole(folder / "evaluation.json") as draft:
        draft.write_text(as_json(model, request, figures, next_steps) + "\n")
