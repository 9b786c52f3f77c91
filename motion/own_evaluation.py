"""Evaluation of models of recordings: a judge of classes, a matcher of captions, and bodies beside those held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from core.evaluation.distances import kernel, nearest
from core.evaluation.interval import ConfidenceInterval, average, share
from core.evaluation.options import REAL, Evaluate, EvaluationOptions
from core.model import Prepare
from motion import physics
from motion.classifier import Classifier, train_classifier
from motion.data import MotionFiles
from motion.features import Groups, decode
from motion.matcher import train_matcher
from motion.protocol import protocol_figures
from motion.skeleton import HUMAN
from motion.windows import Parts

REALS = 512  # held-out windows that samples are compared with, and training windows in which the nearest is sought
NAME = "read as the asked class"


def own_evaluator(parts: Callable[[], Parts]) -> Prepare:
    """An evaluation that reads the data and trains its judges within the time of the options when it is called."""

    def prepare(options: EvaluationOptions) -> Evaluate:
        found = parts()
        held_out = found.held_out if len(found.held_out) else found.train
        real = held_out.get(range(min(REALS, len(held_out))))
        known = found.train.get(_spread(found.train))
        figures_of: list[Callable[[Mapping[str, Any]], Mapping[str, object]]] = []
        if len(found.classes) > 1 and "label" in real:
            share_of_time = options.seconds / (2 if found.captioned else 1)
            judge = train_classifier(found.train, len(found.classes), share_of_time, options.track)
            figures_of.append(lambda batch: _classes(judge, batch, real, found.classes))
        if found.captioned:
            steps = int(min(800, max(options.seconds * 4, 20)))
            matcher = train_matcher(found.train, HUMAN.features, steps=steps)
            half = len(real["x"]) // 2
            seen = matcher.of_motions(real["x"], real["valid"])
            ceiling = protocol_figures(matcher.of_texts(real["caption"])[half:], seen[half:], seen[:half])

            def matched(batch: Mapping[str, Any]) -> Mapping[str, object]:
                texts, motions = matcher.of_texts(batch["caption"]), matcher.of_motions(batch["x"], batch["valid"])
                return _beside(protocol_figures(texts, motions, seen), ceiling)

            figures_of.append(matched)
        bodies = _bodies(found, real)
        windows = _poses(found, known)
        windows = torch.cat([windows, windows[..., list(HUMAN.mirror)[1:], :] * windows.new_tensor([-1.0, 1.0, 1.0])])

        def evaluate(samples: Tensor, asked: Mapping[str, Any]) -> Mapping[str, object]:
            valid = asked.get("valid")
            exists = torch.ones(samples.shape[:2], dtype=torch.bool) if valid is None else torch.as_tensor(valid).bool()
            batch = {**asked, "x": samples.float().cpu(), "valid": exists.cpu()}
            figures: dict[str, object] = {"samples": len(samples)}
            with torch.no_grad():
                for measure in figures_of:
                    figures |= measure(batch)
            figures |= _beside(_bodies(found, batch), bodies)
            near, usual = (_nearest(_poses(found, each), windows) for each in (batch, real))
            return figures | _beside({NEAREST: near}, {NEAREST: usual})

        return evaluate

    return prepare


NEAREST = "distance to the nearest training window (m)"


def _spread(data: MotionFiles) -> list[int]:
    """Windows from all of the data, at most REALS of them."""
    return list(range(0, len(data), max(len(data) // REALS, 1)))[:REALS]


def _beside(figures: Mapping[str, object], real: Mapping[str, object]) -> dict[str, object]:
    """Figures, each followed by that of real motions."""
    return {
        key: value for name, own in figures.items() for key, value in ((name, own), (name + REAL, real.get(name, "")))
    }


def _classes(
    judge: Classifier, batch: Mapping[str, Any], real: Mapping[str, Any], classes: Sequence[str]
) -> dict[str, object]:
    """Shares of samples and of held-out windows that a judge reads as what they are, and how far their features are."""
    found: dict[str, object] = {}
    if "label" in batch:
        found |= _beside(_shares(judge, batch, classes), _shares(judge, real, classes))
    seen, features = judge.embed(real["x"], real["valid"]), judge.embed(batch["x"], batch["valid"])
    if min(len(seen), len(features)) >= 4:
        half = torch.arange(len(seen)) % 2 == 0
        name = "kernel distance to held-out"
        found |= _beside({name: kernel(features, seen, groups=10)}, {name: kernel(seen[half], seen[~half], groups=10)})
    return found


def _shares(judge: Classifier, batch: Mapping[str, Any], classes: Sequence[str]) -> dict[str, ConfidenceInterval]:
    """The share that is read as asked, of all and of each class."""
    labels = torch.as_tensor(batch["label"])
    known = labels >= 0
    if not bool(known.any()):
        return {}
    right = judge(batch["x"], batch["valid"]).argmax(-1).eq(labels)
    members = {name: right[labels == number] for number, name in enumerate(classes) if bool((labels == number).any())}
    balanced = float(torch.stack([each.double().mean() for each in members.values()]).mean())
    figures = {NAME: share(right[known])}
    figures[f"{NAME}, balanced over classes"] = ConfidenceInterval(balanced, float("nan"), float("nan"))
    return figures | {f"{NAME}: {name}": share(each) for name, each in members.items()}


def _bodies(parts: Parts, batch: Mapping[str, Any]) -> dict[str, ConfidenceInterval | float]:
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


def _poses(parts: Parts, batch: Mapping[str, Any]) -> Tensor:
    """Poses about the root of the frames that all clips have, (N, T, J - 1, 3) metres."""
    part = Groups(HUMAN.joints).slices()[3]
    rows = int(batch["valid"].sum(1).min())
    return parts.normal.undo(batch["x"])[:, :rows, part].unflatten(-1, (-1, 3))


def _nearest(poses: Tensor, windows: Tensor) -> float:
    """How far clips are from the nearest of some windows, metres a joint, the median over clips."""
    rows = min(poses.shape[1], windows.shape[1])
    mine, theirs = (each[:, :rows].flatten(1) for each in (poses, windows))
    return float(nearest(mine, theirs)[0].median()) / (rows * (HUMAN.joints - 1)) ** 0.5
