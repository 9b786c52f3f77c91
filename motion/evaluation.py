"""Evaluation of samples: the published protocol in a matcher's space, agreement with scripts, and physics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from core.data.dataset import Dataset
from core.evaluation.interval import share
from core.evaluation.options import Evaluate
from motion import physics
from motion.features import Normal, decode
from motion.matcher import train_matcher
from motion.observe import agrees, direction_of_walk, observe, side_of_wave
from motion.protocol import protocol_figures
from motion.script import Kind
from motion.skeleton import HUMAN, Skeleton

MOVING = {Kind.RUN, Kind.JUMP}  # a walk combined with one of these has no direction of its own to measure
REAL = 512  # held-out clips that samples are compared with


def evaluator(train: Dataset, held_out: Dataset, normal: Normal, skeleton: Skeleton = HUMAN) -> Evaluate:
    """An evaluation: the matcher is trained on the training part, and real clips are held out from it.

    The figures of the real clips, given first, are what perfect samples would get.
    """
    matcher = train_matcher(train, skeleton.features)
    # Real clips are cut in two: one half is to the other what samples are to it.
    shown = held_out.get(range(min(REAL, len(held_out))))
    real = matcher.of_motions(shown["x"], shown["valid"])
    half = len(real) // 2
    ceiling = protocol_figures(matcher.of_texts(shown["caption"])[half:], real[half:], real[:half])
    bodies = _bodies(decode(normal.undo(shown["x"]), skeleton), shown["valid"], skeleton)

    def evaluate(samples: Tensor, asked: Mapping[str, Any]) -> Mapping[str, object]:
        samples, valid = samples.float().cpu(), torch.as_tensor(asked["valid"]).bool().cpu()
        with torch.no_grad():
            observed, texts = matcher.of_motions(samples, valid), matcher.of_texts(asked["caption"])
        joints = decode(normal.undo(samples), skeleton)
        figures: dict[str, object] = {"samples": len(samples)}
        for name, value in protocol_figures(texts, observed, real).items():
            figures |= {name: value, f"{name}, real": ceiling.get(name)}
        for name, number in _bodies(joints, valid, skeleton).items():
            figures |= {name: number, f"{name}, real": bodies[name]}
        return figures | (_caption_agreement(joints, valid, asked["clip"]) if "clip" in asked else {})

    return evaluate


def _bodies(joints: Tensor, valid: Tensor, skeleton: Skeleton) -> dict[str, float]:
    measures: dict[str, Callable[[], Tensor]] = {
        "foot skating (share of frames)": lambda: physics.skating(joints, skeleton.fps, valid, skeleton),
        "jerk (m/s3)": lambda: physics.jerk(joints, skeleton.fps, valid),
        "bone length error (m)": lambda: physics.bone_error(joints, valid, skeleton),
        "in the ground (m)": lambda: physics.penetration(joints, valid),
    }
    return {name: float(measure().mean()) for name, measure in measures.items()}


def _caption_agreement(joints: Tensor, valid: Tensor, clips: Sequence[Any]) -> dict[str, object]:
    """Shares of clips that agree with their scripts, by the measures of ``motion.observe``."""
    waves: list[bool] = []
    walks: list[bool] = []
    whole: list[bool] = []
    for body, exists, clip in zip(joints, valid, clips, strict=True):
        observed = observe(body[exists])
        acts = clip.script.acts
        whole.append(all(agrees(act, observed) for act in acts))
        waves += [side_of_wave(observed) == act.side for act in acts if act.kind is Kind.WAVE]
        if not any(act.kind in MOVING for act in acts):
            walks += [direction_of_walk(observed) == act.direction for act in acts if act.kind is Kind.WALK]
    named = {"correct hand waves": waves, "correct direction": walks, "all actions present": whole}
    return {name: share(found) for name, found in named.items() if found}
