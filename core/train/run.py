"""Run: where a run lies, how often it speaks, and when it must be over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """Where a run lies and how often it speaks, in steps (0 is never); but for the deadline, nothing here changes what
    is learned.
    """

    folder: Path
    workers: int = 0  # processes that read data ahead
    log_every: int = 50
    save_every: int = 1000
    validate_every: int = 1000
    sample_every: int = 1000
    sample_count: int = 64  # samples in a sheet
    keep: int | None = 2  # checkpoints; None keeps all, as post-hoc averages need
    tensorboard: bool = False
    cpu: bool = False
    memory: int = 2**32  # bytes of latents that may lie in memory; more lie in the folder
    # ``time.monotonic`` at which the run is over, its last sheet included, with the learning rate at its end.
    deadline: float | None = None
    stage: str = "training"  # what it does, for a person who follows it
