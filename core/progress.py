"""Progress of long loops: what they report, and where they stop when they are asked to or their time is up.

A function with a long loop takes a ``Progress``, and goes through what it does with ``track``:

    for batch in progress.track(batches, "encoding latents"):
        ...

The default reports nothing and stops for nothing, so that from Python nothing has to be given.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class StoppedError(KeyboardInterrupt):
    """Work was asked to stop, by Ctrl-C or SIGTERM; what can be kept of it was."""

    def __init__(self, message: str = "interrupted", number: int = signal.SIGINT) -> None:
        """number: of the signal; a command ends with the exit status 128 + number."""
        super().__init__(message)
        self.number = number


class DeadlineError(StoppedError):
    """Work was not done when its time was up."""

    def __init__(self, message: str) -> None:
        super().__init__(message, signal.SIGALRM)


class Part(NamedTuple):
    """How far a loop is."""

    name: str  # of what it does, such as "encoding latents"
    done: int
    total: int | None  # None where that is not known
    began: float  # ``time.monotonic``
    ended: bool = False

    @property
    def share(self) -> float:
        """How much of it is done; 0 where that is not known."""
        return self.done / self.total if self.total else 0.0

    def __str__(self) -> str:
        count = str(self.done) if self.total is None else f"{self.done}/{self.total}"
        spent = time.monotonic() - self.began
        if self.ended:
            return f"{self.name}: {count} in {clock(spent)}"
        return f"{self.name}: {count}" + (f", {clock(spent / self.share - spent)} left" if self.share else "")


def clock(seconds: float) -> str:
    """Seconds as a person reads them: 0:42, 12:40, 3:05:00."""
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _never() -> int | None:
    return None


def _quiet(part: Part) -> None:
    pass


@dataclass(frozen=True)
class Progress:
    """What a long loop reports to, and asks whether it may go on."""

    deadline: float | None = None  # ``time.monotonic`` after which ``check`` raises
    asked: Callable[[], int | None] = _never  # the number of the signal that asks to stop, if one did
    show: Callable[[Part], None] = _quiet  # called at each item, so it must be cheap

    def check(self) -> None:
        """Raises StoppedError where the work was asked to stop, and DeadlineError where its time is up."""
        number = self.asked()
        if number is not None:
            raise StoppedError(number=number)
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlineError("the time was up before the work was done: give it more")

    @property
    def left(self) -> float:
        """The seconds until the deadline; infinite without one."""
        return math.inf if self.deadline is None else self.deadline - time.monotonic()

    def within(self, seconds: float) -> Progress:
        """The same, with a deadline in so many seconds if that is before its own."""
        return replace(self, deadline=time.monotonic() + min(seconds, self.left)) if seconds < math.inf else self

    def track(self, items: Iterable[T], name: str, total: int | None = None) -> Iterator[T]:
        """The items, with a check before each and a report after it; ``total`` is their number where they have none."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        done, began = 0, time.monotonic()
        self.show(Part(name, done, total, began))
        try:
            for item in items:
                self.check()
                yield item
                done += 1
                self.show(Part(name, done, total, began))
        finally:
            self.show(Part(name, done, total, began, ended=True))
