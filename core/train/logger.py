"""The record of a run: one JSON line an event, the same figures for TensorBoard, and what a person sees of it."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from core.console import Throttle, live
from core.progress import Part
from core.train.run import Run
from core.train.status import LOG, Status
from core.weights.checkpoint import write_whole


def peak_memory() -> int:
    """The most memory, in bytes, that this process has had: of the GPU where there is one, or of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = {"darwin": 1}.get(sys.platform, 1024)  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class RunLogger:
    """Writes what happens in a run to its folder; on resuming, what came after the resumed step is forgotten."""

    def __init__(self, run: Run, first: int, steps: int, progress: float = 0.0) -> None:
        """first: the step from which the run (re)starts; steps: of the whole run; progress: the share that is over."""
        self.path = run.folder / LOG
        run.folder.mkdir(parents=True, exist_ok=True)
        events = [event for event in read(run.folder) if event["step"] <= first] if first else []
        write_whole(self.path, "".join(json.dumps(event) + "\n" for event in events).encode())
        self._writer = _tensorboard(run.folder, first) if run.tensorboard else None
        self._status = Status(run.folder)
        for event in events:
            self._status.update(event)
        self._throttle = Throttle()
        self._live = live(lambda: self._status.view(time.time()))
        session = {
            "stage": run.stage,
            "steps": steps,
            "progress": progress,
            "deadline": None if run.deadline is None else time.time() + run.deadline - time.monotonic(),
            "process": os.getpid(),
            "host": socket.gethostname(),
        }
        self.write(first, session)

    def write(self, step: int, event: Mapping[str, object]) -> None:
        """One event at a step; its numbers also go to TensorBoard."""
        full = {"step": step, "time": time.time(), **event}
        with self.path.open("a") as file:
            file.write(json.dumps(full) + "\n")
        self._status.update(full)
        sentence = self._status.sentence(full) if self._live is None else None
        if sentence is not None:
            print(sentence, file=sys.stderr, flush=True)
        if self._writer is not None:
            for name, value in event.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)

    def show(self, part: Part) -> None:
        """How far something is that comes before the first step."""
        event = {"part": part.name, "done": part.done, "total": part.total}
        if self._throttle(part):
            self.write(self._status.step, event)
        elif self._live is not None:
            self._status.update({"step": self._status.step, **event})

    def close(self, end: str) -> None:
        """Say how the session ended, and finish what a person sees and TensorBoard's file."""
        self.write(self._status.step, {"end": end})
        if self._live is not None:
            self._live.close()
        if self._writer is not None:
            self._writer.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first; a last line that a kill cut off is left out."""
    path = folder / LOG
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _tensorboard(folder: Path, first: int) -> Any:
    # Imported here because it costs more than the rest of core.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=first)
