"""Evaluation of models of recordings: the judges of ``core.evaluation.own``, and bodies beside those held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.evaluation.interval import ConfidenceInterval, average
from core.evaluation.names import AS_ASKED, REAL
from core.evaluation.options import Evaluate, EvaluationOptions
from core.evaluation.own import OwnEvaluation
from core.model import Prepare
from motion import physics
from motion.backbone import backbone, view
from motion.data import MotionFiles, Piece
from motion.features import decode
from motion.mirror import mirror_words
from motion.skeleton import HUMAN
from motion.windows import Parts

REALS = 512  # held-out windows whose bodies are measured, at most
FINER = 4  # windows that a judge sees for each that training counts: as many beginnings
BALANCED = f"{AS_ASKED}, balanced over classes"


def own_evaluator(parts: Callable[[], Parts]) -> Prepare:
    """An evaluation that reads the data and trains its judges within the time of the options when it is called."""

    def prepare(options: EvaluationOptions) -> Evaluate:
        return MotionEvaluation(parts(), options)

    return prepare


class MotionEvaluation:
    """Samples measured against recordings. Its judges are trained when it is made."""

    def __init__(self, parts: Parts, options: EvaluationOptions) -> None:
        self.parts = parts
        held_out = parts.held_out if len(parts.held_out) else parts.train
        sided = any(mirror_words(text) != text for text in (*parts.classes, *parts.captions))
        bones = backbone(parts.train.mirrored and not sided)
        self.own = OwnEvaluation(finer(parts.train), finer(held_out), bones, options)
        self.real = held_out.get(range(min(REALS, len(held_out))))
        self.bodies = bodies(parts, self.real)

    def conditions(self, seed: int, samples: Sequence[int]) -> Mapping[str, Any]:
        """Those of held-out windows."""
        return self.own.conditions(seed, samples)

    @torch.no_grad()
    def __call__(self, samples: Tensor, asked: Mapping[str, Any]) -> Mapping[str, object]:
        """Figures of samples (N, T, D) by name, each followed by that of held-out windows."""
        batch: dict[str, Any] = {"valid": torch.ones(samples.shape[:2], dtype=torch.bool), **asked}
        batch |= {"x": samples.float().cpu(), "valid": torch.as_tensor(batch["valid"]).bool().cpu()}
        figures: dict[str, object] = dict(self.own(batch["x"], {name: batch[name] for name in batch if name != "x"}))
        if self.own.classifier is not None and "label" in asked and "label" in self.real:
            figures[BALANCED], figures[BALANCED + REAL] = (self._balanced(each) for each in (batch, self.real))
        for name, value in bodies(self.parts, batch).items():
            figures |= {name: value, name + REAL: self.bodies[name]}
        return figures

    def _balanced(self, batch: Mapping[str, Any]) -> float:
        """The share that is read as asked, the mean over classes."""
        assert self.own.classifier is not None
        labels = torch.as_tensor(batch["label"])
        right = self.own.classifier(view(batch)).argmax(1).eq(labels).double()
        return float(torch.stack([right[labels == label].mean() for label in labels.unique()]).mean())


def finer(data: MotionFiles) -> MotionFiles:
    """The windows of a part at FINER times as many beginnings, each as it is; those of rare classes once."""
    found: dict[Piece, None] = {}
    hop = max(data.length // 2 // FINER, 1)
    for piece in dict.fromkeys(data.pieces):
        last = max(piece.stop - data.length, piece.start)
        for start in range(piece.start, last + 1, hop):
            found[replace(piece, start=start, stop=min(start + data.length, piece.stop))] = None
    return replace(data, pieces=tuple(found), mirrored=False)


def bodies(parts: Parts, batch: Mapping[str, Any]) -> dict[str, ConfidenceInterval | float]:
    """What bodies do: figures of physics, each the mean over clips, and how far trunks lean."""
    joints, valid = decode(parts.normal.undo(batch["x"])), batch["valid"]
    fps = HUMAN.fps
    measures: dict[str, Tensor] = {
        "foot skating (share of frames)": physics.skating(joints, fps, valid),
        "foot speed on the ground (m/s)": physics.sliding(joints, fps, valid),
        "jerk (m/s3)": physics.jerk(joints, fps, valid),
        "bone length error (m)": physics.bone_error(joints, valid),
        "in the ground (m)": physics.penetration(joints, valid),
    }
    found: dict[str, ConfidenceInterval | float] = {
        name: average(each) if len(each) > 1 else float(each.mean()) for name, each in measures.items()
    }
    lean = physics.tilt(joints)[valid]
    for level in (0.5, 0.95):
        found[f"tilt of the trunk (degrees), {level:.0%} of frames below"] = float(lean.quantile(level))
    return found
