"""Runs that are killed at random moments and resumed, in children of a process that has imported everything.

    python -m toy.nursery FOLDER KILLS WORKERS PARTS

prints a JSON object: digests and logs of the unbroken and of the often killed run, and the step each kill found it at.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from core.recipe import Recipe, build
from core.train.logger import read as read_log
from core.train.loop import train
from core.train.run import Run
from core.train.state import newest
from core.weights.checkpoint import read


def digest(path: Path) -> str:
    """SHA-256 over the names and bytes of every tensor of a checkpoint: weights, averages, optimizer."""
    found = hashlib.sha256()
    for name, value in sorted(read(path).items()):
        found.update(name.encode())
        found.update(value.numpy().tobytes())
    return found.hexdigest()


def child(work: Callable[[], object]) -> int:
    """Do ``work`` in a forked process and return its id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def finish(pid: int) -> None:
    """Wait for a child. Raises RuntimeError if it failed."""
    if os.waitpid(pid, 0)[1] != 0:
        raise RuntimeError("a run failed")


def reached(folder: Path) -> int:
    """The step of a run's newest checkpoint."""
    last = newest(folder)
    return int(last.stem.split("-")[1]) if last else 0


def kill(pid: int, folder: Path, chance: random.Random) -> int:
    """Kill a run: one in four at any moment of its start, the others a random moment after they wrote something."""
    known = reached(folder)
    if chance.random() < 0.25:
        time.sleep(chance.uniform(0, 0.4))
    else:
        while reached(folder) == known and os.waitpid(pid, os.WNOHANG)[0] == 0:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)
    if os.waitpid(pid, 0)[1] != signal.SIGKILL:
        raise RuntimeError("a run ended before it was killed: give it more steps")
    return reached(folder)


def main(folder: Path, kills: int, workers: int, parts: int) -> dict[str, object]:
    """Train once without a break and once with many."""
    # Forked children must find no threads of the parent's arithmetic.
    torch.set_num_threads(1)
    recipe: Recipe = build("toy.recipes.points.circle", {"steps": 120 * (kills + 1), "parts": parts}, ("toy",))

    def run(name: str) -> Run:
        return Run(
            folder / name,
            workers,
            log_every=5,
            save_every=3,
            validate_every=20,
            sample_every=0,
            tensorboard=False,
            cpu=True,
        )

    finish(child(lambda: train(recipe, run("whole"))))
    chance = random.Random(0)
    steps = [kill(child(lambda: train(recipe, run("killed"))), folder / "killed", chance) for _ in range(kills)]
    finish(child(lambda: train(recipe, run("killed"))))
    ends = [newest(folder / name) for name in ("whole", "killed")]
    return {
        "digests": [digest(end) for end in ends if end],
        "kills": steps,
        "logs": [held_out(folder / name) for name in ("whole", "killed")],
    }


def held_out(folder: Path) -> list[dict[str, object]]:
    """The held-out losses that a run wrote down."""
    events = [event for event in read_log(folder) if "held_out" in event]
    return [{name: value for name, value in event.items() if name != "time"} for event in events]


if __name__ == "__main__":
    import accelerate  # noqa: F401  (imported once, here, rather than in every child)

    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
