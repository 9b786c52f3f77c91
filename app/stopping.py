"""Ctrl-C and SIGTERM end a command promptly, in one line, wherever it is."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.progress import StoppedError

PATIENCE = 1.5  # seconds after which a command that is deep in arithmetic is ended
GRACE = 30.0  # seconds for a checkpoint, when who started a process is gone
SHOW_CURSOR = "\x1b[?25h"  # which a live view hides
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _stop(number: int, frame: object) -> None:
    raise StoppedError(number=number)


@contextmanager
def prompt_stop() -> Iterator[None]:
    """A signal raises StoppedError inside the with block; where Python is not reached soon, the process ends.

    Python runs handlers between two of its instructions only, and one instruction may be minutes of linear algebra.
    What has a handler of its own, as the training loop has, is not ended so: it keeps a checkpoint first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[int, Any] = {number: signal.signal(number, _stop) for number in SIGNALS}
    done, (reader, writer) = threading.Event(), os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _watch(reader: int, done: threading.Event) -> None:
    """Waits for the numbers of signals, which the interpreter writes at once, and for the end of the block."""
    again = False
    with open(reader, "rb", buffering=0) as signals:
        while received := signals.read(1):
            number = received[0]
            if number not in SIGNALS or done.wait(PATIENCE):
                continue
            if again or signal.getsignal(number) is _stop:
                print(f"{SHOW_CURSOR * sys.stderr.isatty()}langevin: interrupted", file=sys.stderr, flush=True)
                os._exit(128 + number)
            print("langevin: stopping after this step; once more stops at once", file=sys.stderr, flush=True)
            again = True


def end_with(reader: int) -> None:
    """End this process as by SIGTERM when the process that has the other end of a pipe does, however that ends."""

    def wait() -> None:
        os.read(reader, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
