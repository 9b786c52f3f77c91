"""Early stopping: where the held-out loss has risen, the model of a run is that of the lowest, not the last.

Losses of two steps are of the same examples, times and noise, so that they are compared example by example: a rise
counts where it is above MARGIN of the loss and above ERRORS standard errors of the mean difference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MARGIN = 0.01  # of the lowest loss
ERRORS = 3.0


@dataclass(frozen=True)
class Best:
    """The averaged model of a run that had the lowest held-out loss."""

    step: int
    progress: float  # of the run, at this step
    losses: tuple[float, ...]  # of each held-out example

    @property
    def loss(self) -> float:
        """The mean."""
        return statistics.fmean(self.losses)

    def metadata(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"step": self.step, "progress": self.progress, "losses": list(self.losses)}


def from_metadata(kept: Mapping[str, Any] | None) -> Best | None:
    """What a checkpoint kept."""
    return None if kept is None else Best(kept["step"], kept["progress"], tuple(kept["losses"]))


def is_lower(losses: Sequence[float], best: Best | None) -> bool:
    """Whether a mean loss is the lowest yet, by however little."""
    loss = statistics.fmean(losses)
    return math.isfinite(loss) and (best is None or loss < best.loss)


def has_risen(losses: Sequence[float], best: Best | None) -> bool:
    """Whether a mean loss is above the lowest by more than noise, or is no number; unknown of other examples."""
    if best is None or len(losses) != len(best.losses):
        return False
    if not math.isfinite(statistics.fmean(losses)):
        return True
    rises = [loss - low for loss, low in zip(losses, best.losses, strict=True)]
    error = statistics.stdev(rises) / math.sqrt(len(rises)) if len(rises) > 1 else 0.0
    return statistics.fmean(rises) > max(MARGIN * abs(best.loss), ERRORS * error)
