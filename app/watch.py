"""`langevin watch`: follow a run from its log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.options import parse
from core.console import live
from core.flags import option
from core.train.status import DONE, FAILED, LOG, STOPPED, Status

ABOUT = """Follow a run until it ends: its stage, step, losses, samples a second, the time left and its last sheet.
In a terminal that is one view, elsewhere a line for each thing that happens. A run that has ended is shown as it ended.

Examples:
  langevin watch runs/edm-tiny
  langevin watch runs/edm-tiny --once"""
EVERY = 1.0  # seconds after which the size of the log is read again


@dataclass(frozen=True)
class Options:
    """What `langevin watch` takes."""

    once: bool = option(False, "show how it stands now, and end")


class Tail:
    """The events of a log as they are written; all of them again where the log was replaced, as a resumed run does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = Status(path.parent)
        self._file, self._read = 0, 0  # which file it is, and the bytes of it that were read

    def news(self) -> list[dict[str, Any]]:
        """The events since the last call."""
        try:
            about = self.path.stat()
        except FileNotFoundError:
            return []
        if about.st_ino != self._file or about.st_size < self._read:
            self.status, self._file, self._read = Status(self.path.parent), about.st_ino, 0
        if about.st_size == self._read:
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]  # a line that is being written comes whole the next time
        self._read += len(lines)
        events: list[dict[str, Any]] = [json.loads(line) for line in lines.splitlines()]
        for event in events:
            self.status.update(event)
        return events


class Follower:
    """A run with its stages, each of which has a log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tails: dict[Path, Tail] = {}

    def news(self) -> Iterator[tuple[Status, dict[str, Any]]]:
        """What happened since the last call, stage by stage."""
        for path in [*self.folder.glob(f"*/{LOG}"), self.folder / LOG]:
            tail = self.tails.setdefault(path, Tail(path))
            for event in tail.news():
                yield tail.status, event

    def stages(self) -> list[Status]:
        """The stages that have begun, in the order of their last events."""
        begun = [tail.status for tail in self.tails.values() if tail.status.figures or tail.status.last is not None]
        return sorted(begun, key=lambda status: status.last or 0.0)

    def running(self) -> bool:
        """Whether a process works on the run, which may be between two stages."""
        last = self.stages()[-1]
        ends = (STOPPED, FAILED) if last.folder != self.folder else (STOPPED, FAILED, DONE)
        return last.alive() and last.end not in ends

    def rows(self) -> list[str]:
        """How each stage stands, a few lines each."""
        return [row for status in self.stages() for row in status.view(time.time())]


def main(words: Sequence[str]) -> None:
    """Show how a run stands until it ends."""
    options, given = parse(Options, "langevin watch", ABOUT, words, [("run", "a run's folder")])
    folder = Path(given["run"])
    follower = Follower(folder)
    old = list(follower.news())
    if not follower.stages():
        raise ValueError(f"{folder} has no {LOG}: give the folder of a run, such as runs/edm-tiny")
    if options.once or not follower.running():
        print("\n".join([*follower.rows(), *ending(follower)]))
        return
    view = live(follower.rows)
    try:
        if view is None:
            show(old[-20:])
        while follower.running():
            time.sleep(EVERY)
            news = list(follower.news())
            if view is None:
                show(news)
    finally:
        if view is not None:
            view.close()
    print("\n".join(ending(follower)))


def show(events: Sequence[tuple[Status, dict[str, Any]]]) -> None:
    """A line for each event that needs one."""
    for status, event in events:
        sentence = status.sentence(event)
        if sentence is not None:
            print(sentence, flush=True)


def ending(follower: Follower) -> list[str]:
    """How the run ended, if it did."""
    status = follower.stages()[-1]
    if follower.running():
        return []
    if status.end is None and status.process is None:
        return ["this run is of an older version, whose log does not say whether it has ended"]
    if status.end is None:
        return [f"no process is training it any more: it was killed at step {status.step}; the same command goes on"]
    return [f"{status.stage}: {status.end} at step {status.step}"]
