"""Several processes of one command on one machine, which share each step of a training between them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import FrameType


def side_by_side(words: Sequence[str], count: int) -> int:
    """Run ``langevin WORDS`` in ``count`` processes that know of each other; the first speaks for all.

    Returns its exit status, or that of another that failed while it did not, whose complaint is then printed. An
    interrupt or SIGTERM reaches all of them. Where one fails, the others, which would wait for it, are ended.
    """
    with tempfile.TemporaryFile("w+") as complaints:
        port = _free_port()
        running = [_start(words, rank, count, port, complaints.fileno()) for rank in range(count)]

        def pass_on(number: int, frame: FrameType | None) -> None:
            for process in running:
                process.send_signal(number)

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            failed = _wait(running)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if failed is None:
            return 0
        if failed is not running[0]:
            complaints.seek(0)
            print(complaints.read().strip(), file=sys.stderr)
        return failed.returncode


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
    """Those that were stopped may finish their checkpoint; the others are stopped now."""
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


def _start(words: Sequence[str], rank: int, count: int, port: int, complaints: int) -> subprocess.Popen[bytes]:
    """A process with the names of torchrun in its environment, in a session of its own: signals come from here only."""
    variables = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", max(1, (os.cpu_count() or 1) // count)),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "app.main", *words],
        env=os.environ | {name: str(value) for name, value in variables.items()},
        stdout=subprocess.DEVNULL if rank else None,
        stderr=complaints if rank else None,
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
