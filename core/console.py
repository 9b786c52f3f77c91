"""What a person sees of long work: one live view where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from core.progress import Part, Progress

EVERY = 10.0  # seconds between two plain lines of one loop
SOON = 2.0  # seconds of a loop before its first
BAR = 24  # characters of a bar


class Live:
    """Rows at the bottom of the terminal, drawn again twice a second until it is closed."""

    def __init__(self, rows: Callable[[], Sequence[str]]) -> None:
        """rows: what to draw now."""
        # Imported here because it costs more than the rest of core.
        from rich.console import Console
        from rich.live import Live as RichLive
        from rich.text import Text

        def drawn() -> Any:
            return Text("\n".join(rows()))

        self._live = RichLive(get_renderable=drawn, console=Console(stderr=True), refresh_per_second=2)
        self._live.start()

    def close(self) -> None:
        """Draw the rows a last time and leave them there."""
        self._live.stop()


def live(rows: Callable[[], Sequence[str]]) -> Live | None:
    """A live view on standard error, or None where that is no terminal."""
    return Live(rows) if sys.stderr.isatty() else None


def bar(share: float) -> str:
    """A share as a bar and in per cent."""
    share = min(1.0, max(0.0, share))
    filled = round(BAR * share)
    return f"{'━' * filled}{'─' * (BAR - filled)} {100 * share:3.0f} %"


class Throttle:
    """Which of a loop's reports are worth a line: some, once it has taken a while, and its end."""

    def __init__(self) -> None:
        self._loop, self._at = 0.0, -math.inf  # when the loop began, and when it was reported

    def __call__(self, part: Part) -> bool:
        now = time.monotonic()
        if part.began != self._loop:
            self._loop, self._at = part.began, -math.inf
        waited = now - max(self._at, part.began)
        if part.ended:
            return self._at > part.began
        if waited < (EVERY if self._at > part.began else SOON):
            return False
        self._at = now
        return True


class _Report:
    """The loops that a command goes through."""

    def __init__(self) -> None:
        self.parts: dict[float, Part] = {}  # by when they began
        self.throttle = Throttle()
        self.view = live(self.rows)

    def rows(self) -> list[str]:
        return [f"{bar(part.share)}  {part}" for part in self.parts.values()]

    def show(self, part: Part) -> None:
        self.parts[part.began] = part
        if self.view is None and self.throttle(part):
            print(part, file=sys.stderr, flush=True)


@contextmanager
def reported(deadline: float | None = None) -> Iterator[Progress]:
    """A progress that a person sees on standard error inside the with block."""
    report = _Report()
    try:
        yield Progress(deadline, show=report.show)
    finally:
        if report.view is not None:
            report.view.close()
