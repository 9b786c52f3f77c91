"""The record of a run: one JSON line an event, the same figures for TensorBoard, and a progress bar."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.weights.checkpoint import write_whole


class Figures(NamedTuple):
    """What a line of the log says, as means since the last one."""

    loss: float
    gradient_norm: float  # before it is clipped
    samples_per_second: float
    seconds_per_step: float
    peak_memory: int  # bytes of this process, so far

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.4f}, gradient norm {self.gradient_norm:.3g}, {self.samples_per_second:.0f} samples/s, "
            f"{self.seconds_per_step:.3g} s a step, {self.peak_memory / 2**30:.2f} GiB at most"
        )


def peak_memory() -> int:
    """The most memory, in bytes, that this process has had: of the GPU where there is one, or of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = {"darwin": 1}.get(sys.platform, 1024)  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class RunLogger:
    """Writes what happens in a run to ``folder``; on resuming, what came after the resumed step is forgotten."""

    def __init__(self, folder: Path, first: int, total: int, tensorboard: bool = True) -> None:
        """first: the step from which the run (re)starts; total: the steps of the whole run."""
        self.path = folder / "log.jsonl"
        self.total = total
        folder.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(event) + "\n" for event in read(folder) if event["step"] <= first] if first else []
        write_whole(self.path, "".join(kept).encode())
        self._writer = _tensorboard(folder, first) if tensorboard else None
        self._bar = _bar(first, total) if sys.stderr.isatty() else None

    def write(self, step: int, event: Mapping[str, object]) -> None:
        """One event at a step; its numbers also go to TensorBoard."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **event}) + "\n")
        if self._writer is not None:
            for name, value in event.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)

    def progress(self, step: int, figures: Figures) -> None:
        """Move the bar, or print a line where there is no terminal."""
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=step, description=str(figures))
        else:
            print(f"step {step}/{self.total}: {figures}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Finish the bar and TensorBoard's file."""
        if self._bar is not None:
            self._bar[0].stop()
        if self._writer is not None:
            self._writer.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first; a last line that a kill cut off is left out."""
    path = folder / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _tensorboard(folder: Path, first: int) -> Any:
    # Imported here, as rich is below, because it costs more than the rest of core.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=first)


def _bar(first: int, total: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    bar.start()
    return bar, bar.add_task("training", total=total, completed=first)
