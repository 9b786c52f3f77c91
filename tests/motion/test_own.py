"""Models of recordings of one's own: every recipe learns and samples them, by class or caption, and measures itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, Estimate
from core.evaluation.names import AS_ASKED, REAL
from core.evaluation.options import EvaluationOptions, HasConditions
from core.random import SamplingRNG, TrainingRNG
from core.recipe import Recipe, build
from core.sample.step import run
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.systems.sampling import Sampling
from motion.backbone import mirror_views, network, view
from motion.features import decode
from motion.generator import poses
from motion.mirror import mirror
from motion.own import OwnPrompts, own_guidance
from motion.own_evaluation import BALANCED, finer
from motion.physics import skating
from motion.script import Kind
from motion.skeleton import HUMAN
from motion.windows import Parts, open_parts
from tests.support.poses import wander

NAMES = ("mdm", "motiondiffuse", "motion_flow")
SMALL = {"frames": 24, "width": 16, "depth": 1, "text_width": 16, "batch": 4}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of the built-in people who walk, and who sit, twelve of each."""
    joints, valid, clips = poses(0, range(400))
    wanted = {Kind.WALK: "walks", Kind.SIT: "sits down"}
    chosen: list[tuple[str, Tensor]] = []
    for body, rows, clip in zip(joints, valid, clips):
        label = wanted.get(clip.script.acts[0].kind)
        if len(clip.script.acts) == 1 and label is not None and sum(label == known for known, _ in chosen) < 12:
            chosen.append((label, body[: int(rows.sum())]))
    assert len(chosen) == 24
    path = tmp_path_factory.mktemp("recordings") / "people.npz"
    np.savez(
        path,
        positions=torch.cat([body for _, body in chosen]).float().numpy(),
        lengths=[len(body) for _, body in chosen],
        labels=[label for label, _ in chosen],
        fps=20,
    )
    return path


@pytest.fixture(scope="module")
def parts(recordings: Path) -> Parts:
    return open_parts(recordings, 24)


def recipe_of(name: str, recordings: Path) -> Recipe:
    return build(f"motion.recipes.{name}.own", {**SMALL, "data": str(recordings)})


@pytest.mark.parametrize("name", NAMES)
def test_own_learns_and_samples_in_two_steps(name: str, recordings: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = recipe_of(name, recordings)
    system = recipe.system()
    assert isinstance(system, Diffusion)
    losses = system.loss(recipe.data()[0].get(range(4)), TrainingRNG(0, range(4)))
    losses.mean.backward()
    assert losses.each.isfinite().all()
    asked = recipe.prompts.default(0, [0, 1])
    sampling = Sampling(recipe.sampling.sampler, recipe.sampling.grid, 2, 2.0, recipe.sampling.guide)
    x = run(system.eval().sample(SamplingRNG(0, [0, 1]), recipe.shape, asked, sampling))
    assert x.shape == (2, 24, 263) and bool(x.isfinite().all())
    takes = recipe.modality.decode(system.decode(x), asked)
    recipe.modality.write(tmp_path / "a.bvh", takes, {})
    assert [len(take.joints) for take in takes] == asked["valid"].sum(1).tolist()


def test_sizes_grow_and_fit_every_recipe(recordings: Path) -> None:
    for name in NAMES:
        recipe = recipe_of(name, recordings)
        assert recipe.sizes is not None
        counts = []
        for size in recipe.sizes.arguments[:3]:
            with torch.device("meta"):
                system = build(f"motion.recipes.{name}.own", {"data": str(recordings), **size}).system()
            counts.append(sum(value.numel() for value in system.parameters()))
        assert counts == sorted(counts)


def test_classes_are_asked_for_by_name_or_number(parts: Parts) -> None:
    prompts = OwnPrompts(lambda: parts)
    for text, captions in (
        ("Walks", ["walks"] * 3),
        ("walks; sits down", ["walks", "sits down", "walks"]),
        ("1, 0", ["walks", "sits down", "walks"]),
    ):
        found = prompts.parse(text, 3)
        assert found["caption"] == captions
        assert [parts.classes[label] for label in found["label"].tolist()] == captions
        assert found["valid"].dtype == torch.bool and found["valid"].shape == (3, 24)
    with pytest.raises(ValueError, match="did you mean 'walks'"):
        prompts.parse("wals", 1)
    default = prompts.default(0, range(4))
    assert set(default["caption"]) == {"walks", "sits down"} and "x" not in default


def test_short_recordings_are_sampled_as_short_as_they_are(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        positions=torch.cat([wander(rows, rows) for rows in (15, 16, 14, 60, 61, 62)]).numpy(),
        lengths=[15, 16, 14, 60, 61, 62],
        labels=["hops"] * 3 + ["runs"] * 3,
        fps=20,
    )
    found = OwnPrompts(lambda: open_parts(tmp_path / "a.npz", 40)).parse("hops, runs", 2)
    assert found["valid"].sum(1).tolist() == [12, 40]


def test_judges_see_the_frames_that_exist(parts: Parts) -> None:
    torch.manual_seed(0)
    real = parts.held_out.get(range(4))
    real["valid"][0, 10:] = False
    other = {**real, "x": torch.where(real["valid"][..., None], real["x"], 9.0)}
    judge = network(view(real)[:1]).eval()
    torch.testing.assert_close(judge(view(other)), judge(view(real)))
    # The normalisation is that of both sides, so that views are mirrored as features are.
    features = parts.normal.undo(real["x"])
    expected = parts.normal.apply(mirror(features))
    torch.testing.assert_close(
        mirror_views(view(real))[..., :-1][real["valid"]], expected[real["valid"]], atol=1e-4, rtol=0
    )


def test_finer_windows_begin_more_often_and_stay_on_their_side(parts: Parts) -> None:
    more = finer(parts.train)
    assert len(more) > 1.5 * len(set(parts.train.pieces)) and len(set(more.pieces)) == len(more)
    assert {piece.path for piece in more.pieces} == {piece.path for piece in parts.train.pieces}
    assert all(piece.stop - piece.start <= 24 for piece in more.pieces)


def test_the_evaluation_gives_figures_beside_those_of_real_windows(recordings: Path, parts: Parts) -> None:
    evaluate = recipe_of("mdm", recordings).evaluate
    assert evaluate is not None
    measure = evaluate(EvaluationOptions(seconds=20))
    assert isinstance(measure, HasConditions)
    real = parts.held_out.get(range(len(parts.held_out)))
    asked = {name: value for name, value in real.items() if name != "x"}
    itself = measure(real["x"], asked)
    assert (
        value_of(itself[BALANCED]) == pytest.approx(value_of(itself[BALANCED + REAL]))
        and value_of(itself[BALANCED]) > 0.8
    )
    swapped = measure(real["x"], {**asked, "label": 1 - real["label"]})
    assert value_of(swapped[AS_ASKED]) == pytest.approx(1 - value_of(itself[AS_ASKED]), abs=1e-6)
    lean, skates = "tilt of the trunk (degrees), 50% of frames below", "foot skating (share of frames)"
    assert value_of(itself[lean]) == pytest.approx(value_of(itself[lean + REAL])) and 0 <= value_of(itself[lean]) < 45
    glide = parts.normal.undo(real["x"])
    glide[..., 2] += 0.05
    gliding = measure(parts.normal.apply(glide), asked)
    assert value_of(gliding[skates]) > 0.3 + value_of(gliding[skates + REAL])


def value_of(figure: Any) -> float:
    return float(getattr(figure, "value", figure))


def test_feet_that_slide_more_than_those_of_the_data_rest(parts: Parts) -> None:
    """Glided clips come back with feet that rest; the guidance takes its thresholds and its filter from the data."""
    real = parts.held_out.get(range(4))
    glide = parts.normal.undo(real["x"])
    glide[..., 2] += 0.03
    rough = parts.normal.apply(glide)

    class Glides:
        """A denoiser whose clips glide."""

        schedule = Flow()

        def bind(self, cond: Cond = Cond()) -> Bound:
            return Bound(self.schedule, lambda x, t: Estimate(rough.repeat(len(x) // len(rough), 1, 1)))

    cond = Cond(vector=torch.zeros(4, 1), valid=real["valid"])
    bound = own_guidance(lambda: parts)(Glides(), cond, 1.0).bind(cond)
    cleaned = bound(rough, torch.tensor(0.05, dtype=torch.float64))
    slid, slides = (
        float(skating(decode(parts.normal.undo(x.float())), HUMAN.fps, real["valid"]).mean()) for x in (rough, cleaned)
    )
    assert slid > 0.3 and slides < 0.3 * slid
