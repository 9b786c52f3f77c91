"""Plan: the stages of a run, each with its recipe, its arguments and its time; stored with the run.

A recipe that can be fitted says in ``Recipe.sizes`` which of its arguments make a network larger. Arguments that are
given are kept; the others are chosen for the data, the machine and the time (see ``choose``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core.data.dataset import Dataset, First
from core.files import whole
from core.fit.choose import Choice, choose
from core.fit.cost import Cost, measure
from core.fit.machine import Machine
from core.recipe import Recipe, build

FORMAT = 1
FILE = "plan.json"
EVALUATION = (0.08, 10.0, 180.0)  # the share of the time that is kept for evaluation, at least and at most (seconds)
STARTING = 8.0  # seconds until the processes of a stage are ready
MEASURING = 1.5  # seconds for each size
SHOWN = 64  # examples that costs are measured on


@dataclass(frozen=True)
class Stage:
    """One training of a run."""

    recipe: str  # dotted name
    arguments: Mapping[str, Any]
    folder: str  # within the run's folder; "" is that folder itself
    share: float  # of the time for training
    parameters: int
    steps: int  # that are expected
    samples: int
    memory: int  # bytes of each process


@dataclass(frozen=True)
class Plan:
    """What a run will do, and when it ends."""

    asked: Mapping[str, Any]  # what the command asks for
    machine: str
    examples: int
    processes: int
    seconds: float | None  # wall clock, of everything; None where steps decide
    stages: tuple[Stage, ...]

    @property
    def evaluation(self) -> float:
        """Seconds that are kept for the evaluation at the end."""
        share, least, most = EVALUATION
        return 0.0 if self.seconds is None else min(max(share * self.seconds, least), most, self.seconds / 3)

    def end_of(self, index: int) -> float:
        """Seconds from the start of the run to the end of a stage."""
        assert self.seconds is not None
        done = sum(stage.share for stage in self.stages[: index + 1])
        return done / sum(stage.share for stage in self.stages) * (self.seconds - self.evaluation)

    def table(self) -> list[tuple[str, str]]:
        """What was chosen, for a person: names and values."""
        rows = [("machine", self.machine), ("training examples", f"{self.examples:,}")]
        rows.append(("processes", str(self.processes)))
        for index, stage in enumerate(self.stages):
            name = stage.recipe.split(".")[-2]
            chosen = {key: value for key, value in stage.arguments.items() if key not in ("data", "classes")}
            rows.append((name, ", ".join(f"{key} {_words(value)}" for key, value in chosen.items() if value != "")))
            size = f"{stage.parameters / 1e6:.2f} M parameters, {stage.memory / 2**30:.2f} GiB a process"
            epochs = stage.samples / max(1, self.examples)
            rows.append(("", f"{size}, about {stage.steps:,} steps ({epochs:.1f} epochs)"))
            if self.seconds is not None:
                rows.append(("", f"ends {clock(self.end_of(index))} after the start"))
        if self.seconds is not None:
            rows.append(("evaluation", f"ends {clock(self.seconds)} after the start"))
        return rows

    def save(self, folder: Path) -> None:
        """Write the plan into a run's folder."""
        with whole(folder / FILE) as draft:
            draft.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")


def read_plan(folder: Path) -> Plan | None:
    """The plan of a run's folder, or None. Raises ValueError for a file that is none."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        if found.pop("format") != FORMAT:
            raise ValueError("another format")
        return Plan(**{**found, "stages": tuple(Stage(**stage) for stage in found["stages"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the plan of a run ({error}): delete it, and the run is planned again"
        ) from error


def _words(value: object) -> str:
    return (
        " x ".join(map(str, value))
        if isinstance(value, list | tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def clock(seconds: float) -> str:
    """A time in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def make_plan(
    name: str,
    given: Mapping[str, Any],
    folder: Path,
    asked: Mapping[str, Any],
    machine: Machine,
    seconds: float | None,
    processes: int | None = None,
) -> Plan:
    """Fit a recipe to its data, the machine and the time.

    name: of a recipe with ``sizes``; given: the arguments that are decided; seconds: of wall clock, for everything that
    is left to do. Raises ValueError for a recipe that cannot be fitted, or a time too short.
    """
    recipe, steps = build(name, given), given.get("steps")
    if recipe.sizes is None:
        raise ValueError(f"{name} has nothing to choose: leave --time out, or take the preset own")
    count = processes or (machine.devices or machine.cores)
    data = recipe.data()[0]  # of all stages, opened once
    plan = Plan(asked, str(machine), len(data), count, seconds, ())
    shown = First(data, SHOWN)
    stages: list[Stage] = []
    arguments = dict(given)
    before = recipe.sizes.before
    if before is not None and not arguments.get(before.argument):
        shared = {key: recipe.arguments[key] for key in before.shared}
        shared |= {source: given[name] for name, source in before.taken.items() if name in given}
        part = None if seconds is None else before.share * (seconds - plan.evaluation) - STARTING
        first = _stage(before.recipe, shared, before.folder, before.share, machine, plan, part, before.steps, shown)
        stages.append(first)
        arguments[before.argument] = str(folder / before.folder)
        arguments |= {name: first.arguments[source] for name, source in before.taken.items()}
    share = 1 - sum(stage.share for stage in stages)
    part = None if seconds is None else share * (seconds - plan.evaluation) - STARTING
    if part is not None and part < 5:
        raise ValueError(f"{clock(seconds or 0)} is too short to train anything here: give a minute or more")
    stages.append(_stage(name, arguments, "", share, machine, plan, part, steps, shown))
    return replace(plan, stages=tuple(stages))


def _stage(
    name: str,
    given: Mapping[str, Any],
    folder: str,
    share: float,
    machine: Machine,
    plan: Plan,
    seconds: float | None,
    steps: int | None,
    data: Dataset,
) -> Stage:
    """A stage with everything chosen; data: examples to measure costs on."""
    first = build(name, given)
    assert first.sizes is not None
    sizes = [{**size, **given} for size in first.sizes.arguments]
    sizes = [size for index, size in enumerate(sizes) if size not in sizes[:index]]
    chosen = partial(
        choose,
        law=first.sizes.law,
        examples=plan.examples,
        memory=machine.device_memory * plan.processes if machine.devices else machine.memory,
        processes=plan.processes,
        seconds=seconds,
        steps=steps,
        batch=given.get("batch") or None,
    )
    costs = _costs(name, sizes, machine, data, lambda costs: chosen(costs).index == len(costs) - 1)
    choice = chosen(costs)
    arguments = dict(build(name, {**sizes[choice.index], "batch": choice.batch}).arguments)
    arguments |= _schedule(first, arguments, choice, plan.examples, steps)
    recipe = build(name, {**arguments, **given, "batch": choice.batch})
    cost = costs[choice.index]
    return Stage(name, recipe.arguments, folder, share, cost.parameters, choice.steps, choice.samples, choice.bytes)


def _costs(
    name: str,
    sizes: Sequence[Mapping[str, Any]],
    machine: Machine,
    data: Dataset,
    better: Callable[[Sequence[Cost]], bool],
) -> list[Cost]:
    """The costs of the sizes, from small to large, until larger ones are no better."""
    device = torch.device(machine.device if machine.devices else "cpu")
    before, costs = torch.get_num_threads(), list[Cost]()
    torch.set_num_threads(1)
    try:
        for size in sizes:
            costs.append(measure(build(name, size), data, device, MEASURING))
            if not better(costs):
                break
    finally:
        torch.set_num_threads(before)
    return costs


def _schedule(
    recipe: Recipe, arguments: Mapping[str, Any], choice: Choice, examples: int, steps: int | None
) -> dict[str, Any]:
    """The arguments of training that follow from a size and what it will see."""
    assert recipe.sizes is not None
    wanted: dict[str, Any] = {
        "lr": recipe.sizes.rate(arguments, choice.batch),
        # Where time decides, steps only bound the run, in case the measured cost was too high.
        "steps": steps or 3 * choice.steps,
        "warmup": max(1, choice.steps // 20),
        "dropout": recipe.sizes.dropout(choice.samples / max(1, examples)),
    }
    return {key: value for key, value in wanted.items() if key in arguments}


def started() -> float:
    """``time.time`` when this process began."""
    import psutil

    began: float = psutil.Process().create_time()
    return min(began, time.time())
