"""Several processes of one command on one machine, which share each step of a training between them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

PARENT = "LANGEVIN_PARENT"  # the variable with the pipe that ends when the process does that started this one


def side_by_side(words: Sequence[str], count: int) -> int:
    """Run ``langevin WORDS`` in ``count`` processes that know of each other; the first speaks for all.

    Returns its exit status, or that of another that failed while it did not, whose complaint is then printed. An
    interrupt or SIGTERM reaches all of them. Where one fails, the others, which would wait for it, are ended; so are
    all where this process is killed.
    """
    stopped: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        for process in running:
            process.send_signal(number)

    with tempfile.TemporaryFile("w+") as complaints, _pipe() as reader:
        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        wakeup = signal.set_wakeup_fd(-1)  # the processes see to a prompt end, each for itself
        try:
            port = _free_port()
            for rank in range(count):
                running.append(_start(words, rank, count, port, complaints.fileno(), reader))
                if stopped:  # by a signal that the new process was too late to get
                    running[-1].send_signal(stopped[-1])
            failed = _wait(running)
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
        if failed is None:
            return 0
        if stopped and running[0].returncode >= 0:  # the first says what was kept, the others end as it does
            return running[0].returncode
        if failed is not running[0]:
            complaints.seek(0)
            print(complaints.read().strip(), file=sys.stderr)
        return failed.returncode if failed.returncode >= 0 else 128 - failed.returncode


def _wait(running: Sequence[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes] | None:
    """The first process found to have failed, or None once all have ended well."""
    left = list(running)
    while left:
        for process in list(left):
            try:
                status = process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            left.remove(process)
            if status:
                _end(left)
                return process
    return None


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Those that were stopped may finish their checkpoint, which the first writes; the others are stopped now."""
    for process in processes:
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.terminate()
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def _pipe() -> Iterator[int]:
    """The end to read of a pipe whose other end only this process has: it ends with it."""
    reader, writer = os.pipe()
    try:
        yield reader
    finally:
        os.close(reader)
        os.close(writer)


def _start(
    words: Sequence[str], rank: int, count: int, port: int, complaints: int, parent: int
) -> subprocess.Popen[bytes]:
    """A process with the names of torchrun in its environment, in a session of its own: signals come from here only."""
    variables = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        PARENT: parent,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", max(1, (os.cpu_count() or 1) // count)),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "app.main", *words],
        env=os.environ | {name: str(value) for name, value in variables.items()},
        stdout=subprocess.DEVNULL if rank else None,
        stderr=complaints if rank else None,
        start_new_session=True,
        pass_fds=[parent],
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
