"""Runs that are slow in one stage and get a signal there, in children of a process that has imported everything.

    python -m toy.stages FOLDER

prints a JSON object: for each stage the exit status, the seconds from the signal to the end, the half-written files
that were left, and whether the same command then ended with the weights of an unbroken run.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from toy.modality import PointModality
from toy.nursery import child, digest
from toy.recipes.points import Net, Points

from app.stopping import prompt_stop
from core.codec import Codec
from core.cond import Cond
from core.condition import ClassLabel
from core.denoiser import Denoiser
from core.objective import Objective, flow
from core.prediction import FlowVelocity
from core.recipe import Recipe, build
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.systems.system import System
from core.train.loop import train
from core.train.run import Run
from core.train.state import newest

STAGES = ("arithmetic", "data", "first", "encoding", "step", "held_out", "sheet", "drawing")
LONG = 30.0  # seconds in a stage, and in arithmetic that Python cannot interrupt


@dataclass(frozen=True)
class Slow:
    """Waits in one stage, and leaves a file that says so."""

    stage: str
    folder: Path

    def at(self, stage: str, seconds: float = LONG) -> None:
        if stage != self.stage:
            return
        (self.folder / "here").touch()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)

    def arithmetic(self) -> None:
        """One call that takes the whole time."""
        if self.stage == STAGES[0]:
            (self.folder / "here").touch()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)


class SlowNet(Net):
    """Slow in steps, or while nothing is learned."""

    def __init__(self, slow: Slow, first: bool) -> None:
        super().__init__(8, 0.1)
        self.slow = slow
        self.first = first

    def forward(self, x: torch.Tensor, time: torch.Tensor, cond: Cond = Cond()) -> torch.Tensor:
        if self.training:
            self.slow.at("first" if self.first else "step", 0.3)
        elif not self.first:
            self.slow.at("held_out")
            self.slow.at("sheet")
        return super().forward(x, time, cond)


class SlowCodec(Codec):
    """Data as they are, after a while."""

    def __init__(self, slow: Slow) -> None:
        super().__init__()
        self.slow = slow

    @property
    def costly(self) -> bool:
        return True

    def moments(self, data: torch.Tensor) -> torch.Tensor:
        self.slow.at("encoding")
        return data


def recipe(slow: Slow, first: bool = False) -> Recipe:
    """A run of two stages, or the first of them."""
    base = build("toy.recipes.points.circle", {"steps": 30}, ("toy",))

    def system() -> Diffusion:
        denoiser = Denoiser(SlowNet(slow, first), Flow(), FlowVelocity())
        codec = Codec() if first else SlowCodec(slow)
        return Diffusion(denoiser, ClassLabel(2, 4), codec, Objective(weight=flow, drop=0.2))

    def data() -> tuple[Points, Points]:
        slow.at("data")
        return Points(), Points(24)

    def start(system: System, run: Run) -> None:
        train(recipe(slow, first=True), replace(run, folder=run.folder / "first", stage="first"))

    modality = PointModality(lambda path, objects, settings: None if first else slow.at("drawing"))
    return replace(base, system=system, data=data, modality=modality, initialize=None if first else start)


def command(slow: Slow) -> None:
    """What the command does."""
    run = Run(slow.folder, log_every=1, save_every=10, validate_every=7, sample_every=8, sample_count=4, cpu=True)
    if slow.stage == "sheet":
        run = replace(run, validate_every=0)
    try:
        with prompt_stop():
            slow.arithmetic()
            train(recipe(slow), run)
    except KeyboardInterrupt as stop:
        os._exit(128 + getattr(stop, "number", 0))


def finished(folder: Path) -> str:
    """The digest of a run that ends."""
    status = os.waitpid(child(lambda: command(Slow("", folder))), 0)[1]
    last = newest(folder)
    if status or last is None:
        raise RuntimeError("a run did not end well")
    return digest(last)


def main(folder: Path) -> dict[str, tuple[int, float, int, bool]]:
    """One run after the other."""
    torch.set_num_threads(1)
    (folder / "whole").mkdir()
    whole, found = finished(folder / "whole"), {}
    for index, stage in enumerate(STAGES):
        slow = Slow(stage, folder / stage)
        slow.folder.mkdir()
        pid = child(lambda slow=slow: command(slow))
        while not (slow.folder / "here").exists():
            time.sleep(0.01)
        time.sleep(0.5)
        sent = time.monotonic()
        os.kill(pid, (signal.SIGINT, signal.SIGTERM)[index % 2])
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        seconds = time.monotonic() - sent
        drafts = len(list(slow.folder.rglob(".draft-*")))
        found[stage] = (status, seconds, drafts, finished(slow.folder) == whole)
    return found


if __name__ == "__main__":
    from accelerate import Accelerator

    from core.train.state import prepare

    # What this imports is imported once, here, rather than in every child.
    prepare(recipe(Slow("", Path()), first=True), Accelerator(cpu=True))
    print(json.dumps(main(Path(sys.argv[1]))))
