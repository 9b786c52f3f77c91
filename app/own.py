"""Training within a time: the run is planned, its stages are trained one after another, and the model is measured."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.processes import side_by_side

if TYPE_CHECKING:
    from core.fit.plan import Plan, Stage
    from core.recipe import Recipe
    from core.train.loop import Run

CLOCK = "clock.json"
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
USUAL = 1800.0  # seconds, where neither a time nor steps are given
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
        print(f"{name:{width}}  {value}", flush=True)


def planned(
    name: str,
    given: Mapping[str, Any],
    folder: Path,
    time_text: str | None,
    steps: int | None,
    processes: int | None,
    cpu: bool,
    dry: bool,
) -> Plan:
    """The plan of a run: that of its folder where the same was asked for, or a new one, which is stored unless ``dry``.

    Raises ValueError where the folder holds a run that was asked for otherwise.
    """
    from core.fit.machine import this_machine
    from core.fit.plan import make_plan, read_plan, started

    seconds = seconds_of(time_text) if time_text is not None else None if steps else USUAL
    asked = {"recipe": name, "given": json.loads(json.dumps(dict(given))), "seconds": seconds, "steps": steps}
    known = read_plan(folder)
    if known is not None and known.asked == asked:
        return known
    if known is not None and any(folder.rglob("*.safetensors")):
        raise ValueError(
            f"{folder} holds a run that was asked for otherwise ({_difference(known.asked, asked)}): "
            "repeat its command to go on with it, or give another --out"
        )
    began = started()
    left = None if seconds is None else seconds - (time.time() - began)
    plan = make_plan(name, given, folder, asked, this_machine(cpu), left, steps, processes)
    plan = dataclasses.replace(plan, seconds=seconds)
    if not dry:
        plan.save(folder)
        Elapsed(folder, 0.0, began).write(running=True)
    return plan


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return next((f"{key} {old.get(key)}, not {value}" for key, value in new.items() if old.get(key) != value), "another")


def train_planned(words: Sequence[str], plan: Plan, folder: Path, change: Change, run_of: Runs) -> Path:
    """Train all stages of a plan, in as many processes as it says, and measure the result; the last checkpoint.

    words: the command, which other processes are started with; change: what it says of the training.
    """
    from core.fit.plan import started

    if "RANK" in os.environ:
        return _stages(plan, folder, running(folder), change, run_of)
    elapsed = read_elapsed(folder, started())
    elapsed.write(running=True)
    try:
        if plan.processes > 1:
            if status := side_by_side(words, plan.processes):
                raise SystemExit(status)
            path = _newest(folder)
        else:
            path = _stages(plan, folder, elapsed, change, run_of)
        evaluate(path, folder, None if plan.seconds is None else plan.seconds - elapsed.seconds)
    finally:
        elapsed.write(running=False)
    return path


def _stages(plan: Plan, folder: Path, elapsed: Elapsed, change: Change, run_of: Runs) -> Path:
    from core.recipe import build
    from core.train.loop import train

    path = folder
    for index, stage in enumerate(plan.stages):
        recipe = change(build(stage.recipe, stage.arguments))
        run = run_of(folder / stage.folder)
        if plan.seconds is not None:
            left = plan.end_of(index) - elapsed.seconds
            run = dataclasses.replace(run, deadline=time.monotonic() + left)
        path = train(recipe, run)
    return path


def _newest(folder: Path) -> Path:
    from core.registry import newest

    return newest(folder)
