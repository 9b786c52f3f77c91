"""Training: one loop for every system; see ``core.train.loop``."""

from core.train.loop import Run, StoppedError, train
from core.train.state import newest

__all__ = ["Run", "StoppedError", "newest", "train"]
