"""Judging samples: the published protocol in a matcher's space, whether clips show what was asked, and physics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from core.data.dataset import Dataset
from core.evaluation.distances import ConfidenceInterval
from core.recipe import Evaluate
from motion import physics
from motion.features import Normal, decode
from motion.matcher import train_matcher
from motion.observe import agrees, direction_of_walk, observe, side_of_wave
from motion.protocol import measured
from motion.skeleton import HUMAN, Skeleton

REAL = 512  # held-out clips that samples are compared with


def judged(train: Dataset, held_out: Dataset, normal: Normal, skeleton: Skeleton = HUMAN) -> Evaluate:
    """An evaluation: the matcher is trained on the training part, and real clips are held out from it.

    The figures of the real clips, given first, are what perfect samples would get.
    """
    matcher = train_matcher(train, skeleton.features)
    # Real clips are cut in two: one half is to the other what samples are to it.
    shown = held_out.get(range(min(REAL, len(held_out))))
    real = matcher.of_motions(shown["x"], shown["valid"])
    half = len(real) // 2
    ceiling = measured(matcher.of_texts(shown["caption"])[half:], real[half:], real[:half])
    bodies = _bodies(decode(normal.undo(shown["x"]), skeleton), shown["valid"], skeleton)

    def evaluate(samples: Tensor, asked: Mapping[str, Any]) -> Mapping[str, object]:
        samples, valid = samples.float().cpu(), torch.as_tensor(asked["valid"]).bool().cpu()
        with torch.no_grad():
            seen, said = matcher.of_motions(samples, valid), matcher.of_texts(asked["caption"])
        joints = decode(normal.undo(samples), skeleton)
        figures: dict[str, object] = {"samples": len(samples)}
        for name, value in measured(said, seen, real).items():
            figures |= {name: value, f"{name}, real": ceiling.get(name)}
        for name, number in _bodies(joints, valid, skeleton).items():
            figures |= {name: number, f"{name}, real": bodies[name]}
        return figures | (_as_asked(joints, valid, asked["clip"]) if "clip" in asked else {})

    return evaluate


def _bodies(joints: Tensor, valid: Tensor, skeleton: Skeleton) -> dict[str, float]:
    measures: dict[str, Callable[[], Tensor]] = {
        "foot skating (share of frames)": lambda: physics.skating(joints, skeleton.fps, valid, skeleton),
        "jerk (m/s3)": lambda: physics.jerk(joints, skeleton.fps, valid),
        "bone length error (m)": lambda: physics.bone_error(joints, valid, skeleton),
        "in the ground (m)": lambda: physics.penetration(joints, valid),
    }
    return {name: float(measure().mean()) for name, measure in measures.items()}


def _as_asked(joints: Tensor, valid: Tensor, clips: Sequence[Any]) -> dict[str, object]:
    """Shares of clips that show what their scripts tell, by the measures of ``motion.observe``."""
    waves: list[bool] = []
    walks: list[bool] = []
    whole: list[bool] = []
    for body, exists, clip in zip(joints, valid, clips, strict=True):
        seen = observe(body[exists])
        acts = clip.script.acts
        whole.append(all(agrees(act, seen) for act in acts))
        waves += [side_of_wave(seen) == act.side for act in acts if act.kind == "wave"]
        if not any(act.kind in ("run", "jump") for act in acts):
            walks += [direction_of_walk(seen) == act.direction for act in acts if act.kind == "walk"]
    named = {"waves with the asked hand": waves, "walks in the asked direction": walks, "shows all that is told": whole}
    return {name: _share(found) for name, found in named.items() if found}


def _share(found: Sequence[bool]) -> ConfidenceInterval:
    """The share that is true, with the 95 % interval of Wilson's."""
    count, share = len(found), sum(found) / len(found)
    middle = (share + 1.92 / count) / (1 + 3.84 / count)
    reach = 1.96 * (share * (1 - share) / count + 0.96 / count**2) ** 0.5 / (1 + 3.84 / count)
    return ConfidenceInterval(share, middle - reach, middle + reach)
