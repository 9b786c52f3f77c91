"""Pace: how far a run is and whether it was asked to stop, the same in all its processes; and the signals that ask."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from core.progress import DeadlineError, StoppedError
from core.recipe import Training
from core.train.state import State

if TYPE_CHECKING:
    from accelerate import Accelerator

TALK = 0.5  # seconds of training after which several processes agree again


class StopSignals:
    """Whether Ctrl-C or SIGTERM came. A second one does what it did before the first."""

    def __init__(self) -> None:
        self.number = 0  # of the signal that came
        self._at_once = False

    def receive(self, number: int) -> None:
        """Remember a signal; raises StoppedError inside ``at_once``."""
        self.number = number
        if self._at_once:
            raise StoppedError(number=number)

    @contextmanager
    def at_once(self, when: bool = True) -> Iterator[None]:
        """A signal raises StoppedError inside the with block, for nothing there has to be kept."""
        if when and self.number:
            raise StoppedError(number=self.number)
        self._at_once = when
        try:
            yield
        finally:
            self._at_once = False


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Ctrl-C and SIGTERM are remembered inside the with block."""
    stop, previous = StopSignals(), dict[int, Any]()

    def ask(number: int, frame: object) -> None:
        if stop.number and callable(previous[number]):
            previous[number](number, frame)
        stop.receive(number)

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Talk(NamedTuple):
    """What several processes agreed on at a step."""

    step: int
    share: float  # of the time that is over
    rate: float  # by which that grows, a step
    time: float
    again: int = -1  # the step at which they talk again

    def at(self, step: int) -> float:
        """The share at a later step."""
        return self.share + (step - self.step) * self.rate


class Pace:
    """How far a run is, and whether it was asked to stop: the same in all its processes.

    Each process asks at the same steps. On several, the first says how far they are, and how fast; they only talk about
    it every half second.
    """

    def __init__(
        self,
        training: Training,
        state: State,
        accelerator: Accelerator,
        deadline: float | None = None,
        signals: StopSignals | None = None,
    ) -> None:
        """deadline: on ``time.monotonic``."""
        self.training = training
        self.state = state
        self.accelerator = accelerator
        self.deadline = deadline
        self.signals = StopSignals() if signals is None else signals
        self.reserve = 0.0  # seconds before the deadline that the end of the run needs, for its last sheet
        self.stopped = 0  # the signal that any process got
        self._began = time.monotonic() - state.loop_seconds
        self._step = -1  # of the progress that is known
        self._progress = 0.0
        self._talk = _Talk(-1, 0.0, 0.0, time.monotonic())

    def spent(self) -> float:
        """Seconds of wall clock since the first step, over all sessions of the run."""
        return time.monotonic() - self._began

    def whole(self) -> float:
        """Seconds of wall clock that all steps have, from the first to the deadline."""
        return 0.0 if self.deadline is None else self.spent() + max(0.0, self.deadline - time.monotonic())

    def progress(self) -> float:
        """The share of the run that is over: of its steps or, if that is more, of its seconds or of its wall clock."""
        if self.state.step != self._step:
            self._step, self._progress = self.state.step, self._agreed()
        if self.accelerator.num_processes == 1:
            self.stopped = self.signals.number
        return self._progress

    def check(self, deadline: float | None = None) -> None:
        """Raises StoppedError where any process was asked to stop, and DeadlineError where the deadline is over.

        Every process calls it at the same places.
        """
        late = deadline is not None and time.monotonic() > deadline
        self.stopped, over = (int(value) for value in self.largest([self.signals.number, late]))
        if self.stopped:
            raise StoppedError(number=self.stopped)
        if over:
            raise DeadlineError("the time was up")

    def ask(self) -> None:
        """Agree on whether any process was asked to stop. Every process calls it at the same places."""
        self.stopped = int(self.largest([self.signals.number])[0])

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all processes, none of which is below 0."""
        if self.accelerator.num_processes == 1:
            return [float(value) for value in values]
        shared = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        found: list[float] = shared.tolist()
        return found

    def _agreed(self) -> float:
        by_steps = self.state.step / self.training.steps
        if self.accelerator.num_processes == 1:
            return max(by_steps, self._by_time())
        if self.state.step >= self._talk.again:
            self._agree()
        # The share of the steps is exact, so that a run without a clock is the same at every pace.
        return max(by_steps, self._talk.at(self.state.step))

    def _agree(self) -> None:
        step, last, now, share = self.state.step, self._talk, time.monotonic(), self._by_time()
        a_step = (now - last.time) / (step - last.step)
        rate = max(0.0, share - last.share) / (step - last.step) if last.step >= 0 else 0.0
        again = float(min(max(1, int(TALK / max(a_step, 1e-9))), 2 * max(1, last.again - last.step)))
        main = self.accelerator.is_main_process
        stopped, *agreed = self.largest([self.signals.number, *((share, rate, again) if main else (0.0, 0.0, 0.0))])
        self.stopped, (share, rate, again) = int(stopped), agreed
        self._talk = _Talk(step, share, rate, now, step + int(again))

    def _by_time(self) -> float:
        """The share of the seconds or of the wall clock that is over, as this process knows it."""
        share = 0.0
        if self.training.seconds is not None:
            share = self.state.seconds / self.training.seconds
        if self.deadline is not None:
            left = self.deadline - self.reserve - time.monotonic()
            share = max(share, self.spent() / (self.spent() + left) if left > 0 else 1.0)
        return share
