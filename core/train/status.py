"""What a person who follows a run wants to know of it, from the events of its log.

An event is a line of ``log.jsonl``: an object with the step, the time and what happened.

    stage, steps, progress, deadline, process, host     a session of the run begins, or goes on
    part, done, total                                   how far something is that comes before the first step
    loss, samples_per_second, progress, ...             means since the last such event
    held_out, held_out/0, ...                           the loss on held-out data, by noise level
    kept_step, kept_held_out                            the run is over, and its model is that of an earlier step
    sheet                                               the path of a sheet of samples, from the run's folder
    end                                                 why the session ended: done, stopped or failed
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from core.console import bar
from core.progress import clock

LOG = "log.jsonl"
TRAINING = "training"  # the stage of a run that has no other name
DONE, STOPPED, FAILED = "done", "stopped", "failed"


@dataclass
class Status:
    """How a run, or one stage of it, stands."""

    folder: Path
    stage: str = TRAINING
    step: int = 0
    steps: int | None = None  # of the whole run
    progress: float = 0.0
    began: tuple[float, float] | None = None  # the time and the progress at which this session's first step was made
    last: float | None = None  # the time of the last event
    deadline: float | None = None
    part: tuple[str, int, int | None] | None = None  # what comes before the first step, while it does
    figures: dict[str, float] = field(default_factory=dict)  # the last of each name
    best: tuple[float, int] | None = None  # held-out loss, and its step
    kept: str = ""  # which model was kept, if not the last
    sheet: Path | None = None
    end: str | None = None
    process: int | None = None
    host: str | None = None

    def update(self, event: Mapping[str, Any]) -> None:
        """Take in the next event of the log."""
        self.step = max(self.step, event["step"])
        self.last = event.get("time", self.last)
        if "stage" in event:
            self.stage, self.steps, self.deadline = event["stage"], event["steps"], event["deadline"]
            self.process, self.host = event["process"], event["host"]
            self.progress, self.began, self.end, self.part = event["progress"], None, None, None
        if "part" in event:
            self.part = (event["part"], event["done"], event["total"])
        self.figures |= {name: value for name, value in event.items() if isinstance(value, int | float)}
        if "loss" in event:
            self.part = None
            if "progress" in event and self.last is not None:
                self.progress = event["progress"]
                self.began = self.began or (self.last, self.progress)
        if "held_out" in event and (self.best is None or event["held_out"] < self.best[0]):
            self.best = event["held_out"], event["step"]
        if "kept_step" in event:
            self.kept = (
                f"the held-out loss was lowest at step {event['kept_step']}; training ended at step {event['step']}, "
                f"and the model is of step {event['kept_step']}"
            )
        if "sheet" in event:
            self.sheet = self.folder / event["sheet"]
        self.end = event.get("end", self.end)

    def left(self, now: float) -> float | None:
        """The seconds until the end, as it went in this session; None where that is not known yet."""
        if self.deadline is not None:
            return max(0.0, self.deadline - now)
        if self.began is None or self.last is None or self.progress <= self.began[1]:
            return None
        whole = (self.last - self.began[0]) / (self.progress - self.began[1])
        return max(0.0, (1 - self.progress) * whole - (now - self.last))

    def alive(self) -> bool:
        """Whether the process that trains it, or did, is there, as far as can be known here."""
        if self.process is None:
            return False
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def summary(self) -> str:
        """The figures in one line."""
        parts = [f"loss {self.figures['loss']:.4f}"] if "loss" in self.figures else []
        if "held_out" in self.figures:
            last, best = self.figures["held_out"], self.best or (math.inf, 0)
            parts.append(f"held-out loss {last:.4f}" + (f" (best {best[0]:.4f} at step {best[1]})" * (best[0] < last)))
        if "samples_per_second" in self.figures:
            parts.append(f"{self.figures['samples_per_second']:.0f} samples/s")
        return ", ".join(parts)

    def line(self, now: float) -> str:
        """Where it is, in one line without figures."""
        steps = "" if self.steps is None else f"/{self.steps}"
        if self.part is not None:
            name, done, total = self.part
            return f"{self.stage}: {name} {done}" + ("" if total is None else f"/{total}")
        left = self.left(now)
        ends = "" if left is None or self.end else f", {clock(left)} left"
        return f"{self.stage}: step {self.step}{steps}{ends}"

    def view(self, now: float) -> list[str]:
        """All that a person wants to see, a few lines."""
        if self.end == DONE:
            first = f"{self.stage}: done, {self.step} steps; {self.summary()}".removesuffix("; ")
            return [first, *([self.kept] if self.kept else []), *self._sheet()]
        share = self.progress
        if self.part is not None and self.part[2]:
            share = self.part[1] / self.part[2]
        rows = [f"{bar(share)}  {self.line(now)}"]
        left = self.left(now)
        if left is not None and self.end is None:
            rows[0] += f", until {datetime.fromtimestamp(now + left):%H:%M}"
        if self.end is not None:
            rows[0] += f", {self.end}"
        return [*rows, *([self.summary()] if self.summary() else []), *self._sheet()]

    def _sheet(self) -> list[str]:
        return [] if self.sheet is None else [f"last sheet: {self.sheet}"]

    def sentence(self, event: Mapping[str, Any]) -> str | None:
        """An event as a line for a person who has no terminal; None for what needs none."""
        here = "" if self.stage == TRAINING else f"{self.stage}, "
        here += f"step {event['step']}" + ("" if self.steps is None else f"/{self.steps}")
        if "loss" in event:
            left = None if self.last is None else self.left(self.last)
            return f"{here}: {_figures(event)}" + ("" if left is None else f", {clock(left)} left")
        if "held_out" in event:
            return f"{here}: held-out loss {event['held_out']:.4f}"
        if "kept_step" in event:
            return f"{here}: {self.kept}"
        if "sheet" in event:
            return f"{here}: sheet of samples {self.sheet}"
        if "part" in event:
            return f"{event['part']}: {event['done']}" + ("" if event["total"] is None else f"/{event['total']}")
        return None


def _figures(event: Mapping[str, Any]) -> str:
    texts = {
        "loss": "loss {:.4f}",
        "gradient_norm": "gradient norm {:.3g}",
        "samples_per_second": "{:.0f} samples/s",
        "seconds_per_step": "{:.3g} s a step",
        "peak_memory_gib": "{:.2f} GiB at most",
    }
    return ", ".join(text.format(event[name]) for name, text in texts.items() if name in event)
