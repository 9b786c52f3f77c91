"""What the measuring of a model may cost, and what else it is given. Leaves torch alone, as commands import it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from core.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

Conditions = Mapping[str, Any]
Evaluate = Callable[["Tensor", Conditions], Mapping[str, object]]  # samples, their conditions -> figures by name
# A batch of data and the numbers of its examples -> what the model's objective costs each of them (B,).
Loss = Callable[[Mapping[str, Any], Sequence[int]], "Tensor"]


@dataclass(frozen=True)
class EvaluationOptions:
    """How a model is measured: the time of its judges, whom to report to, and what is at hand."""

    seconds: float = 60.0  # of wall clock in which data are read and judges are trained, all together
    progress: Progress = Progress()
    features: Path | None = None  # a network in a file or folder, whose features take the place of a judge's
    loss: Loss | None = None  # of the model, for the loss of training and of held-out examples


@runtime_checkable
class HasConditions(Protocol):
    """An evaluation that knows what its samples are best asked for, such as captions seen in training and others."""

    def conditions(self, seed: int, samples: Sequence[int]) -> Conditions:
        """The conditions of some samples; a model takes of them what it reads."""
