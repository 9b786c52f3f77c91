"""Every recipe from text to motion learns a few clips: asked for a caption, it makes the motion of that caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from core.prompts import Captions
from core.recipe import Recipe, build, load
from core.train.ema import Constant
from core.train.loop import train
from core.train.precision import Precision
from motion.generator import Motions, normal_of
from tests.support.runs import quiet

CLIPS = (0, 2, 4, 5)  # a walk forward, one backwards with a wave, a wave, and one who sits down
FRAMES = 32


@dataclass(frozen=True)
class Starts:
    """The first seconds of a few clips as a data set."""

    batch: Mapping[str, Any]

    def __len__(self) -> int:
        return len(CLIPS)

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        rows = list(indices)
        captions = [self.batch["caption"][row] for row in rows]
        return {"x": self.batch["x"][rows], "valid": self.batch["valid"][rows], "caption": captions}


@pytest.fixture(scope="module")
def clips() -> Starts:
    found = Motions(64, normal_of()).get(CLIPS)
    cut = {name: found[name][:, :FRAMES] for name in ("x", "valid")}
    return Starts({**cut, "caption": found["caption"]})


def learning(name: str, clips: Starts) -> Recipe:
    made = build(f"motion.recipes.{name}.tiny", {"width": 64, "depth": 2, "text_width": 16, "count": 64, "geometry": 0})
    training = replace(
        made.training, batch=16, steps=100, lr=4e-3, warmup=160, precision=Precision.NO, ema={"ema": Constant(0.9)}
    )
    return replace(
        made,
        shape=(FRAMES, made.shape[1]),
        training=training,
        data=lambda: (clips, None),
        prompts=Captions(
            lambda seed, samples: {
                name: value for name, value in clips.get([i % len(clips) for i in samples]).items() if name != "x"
            }
        ),
    )


@pytest.mark.parametrize("name", ["mdm", "motiondiffuse", "motion_flow"])
def test_a_caption_gives_its_own_motion(name: str, clips: Starts, tmp_path: Path) -> None:
    """By chance one in four is nearest to its own clip, and as far from it as from the others."""
    recipe = learning(name, clips)
    learned = load(train(recipe, quiet(tmp_path))).system
    samples = recipe.model(learned).draw(0, range(8))
    apart = (samples[:, None] - clips.batch["x"][None]).square().mean((2, 3))  # (8, 4)
    own = F.one_hot(torch.arange(8) % len(clips), len(clips)).bool()
    assert torch.equal(apart.argmin(1), own.long().argmax(1))
    assert float(apart[own].mean()) < 0.4 * float(apart[~own].mean())
