"""Editing and composing: what is kept is kept to the bit, gaps close where they should, segments and limbs their own.

The closed form is a mixture of real clips: given the kept frames of one of them, it knows what was between.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from core.cond import Cond
from core.denoiser import Bound, Denoiser, DenoiserLike
from core.edit import Inpainted, inpaint
from core.grid import trailing
from core.guidance import Guided, X0Transform
from core.prediction import X0
from core.random import SamplingRNG
from core.recipe import Sampling
from core.sample.dpm import dpmpp_2m
from core.sample.heun import heun
from core.sample.step import run
from core.schedule import Cosine, Flow
from core.systems.diffusion import Diffusion
from core.verify.mixture import Mixture
from motion.compose import Segment, compose_limbs, segments, sequence
from motion.editing import (
    Inertialization,
    RootCorrection,
    extrapolate,
    gap_constraint,
    gap_mask,
    inpaint_clips,
    joint_features,
    limb_mask,
    upper_body,
)
from motion.features import Groups, Normal, decode, decode_root
from motion.generator import Motions, normal_of
from motion.nn.mdm import MDM, Encoder
from motion.physics import acceleration
from motion.presets import text_conditioner
from motion.skeleton import HUMAN

SAMPLING = Sampling(dpmpp_2m, trailing, 3, guidance=2.0)


@pytest.fixture(scope="module")
def normal() -> Normal:
    return normal_of()


@pytest.fixture(scope="module")
def clips(normal: Normal) -> Tensor:
    """Eight clips (8, 120, 263), normalised."""
    x: Tensor = Motions(8, normal).get(range(8))["x"]
    return x


@pytest.fixture(scope="module")
def system() -> Diffusion:
    """A small network with random weights in everything."""
    torch.manual_seed(0)
    net = MDM(263, 16, Encoder(16, 16, 1, 2, dropout=0.0), 16)
    model = Diffusion(Denoiser(net, Cosine(), X0()), text_conditioner(16, 16, 1, 12)).eval()
    for value in model.parameters():
        nn.init.normal_(value, std=0.4)
    return model


def test_features_belong_to_joints() -> None:
    parts = torch.stack([joint_features([joint]) for joint in range(22)])
    assert (parts.sum(0) == 1).all() and parts.shape == (22, 263)
    assert parts[0].sum() == 7 and parts[15].sum() == 12 and parts[10].sum() == 13
    names = [HUMAN.names[joint] for joint in upper_body()]
    assert len(names) == 13 and "left_wrist" in names and not any("foot" in name for name in names)
    with pytest.raises(ValueError, match="0 to 21"):
        joint_features([22])


def test_a_gap_between_frames_of_a_known_clip_is_filled_by_it(normal: Normal, clips: Tensor) -> None:
    mixture, schedule, noise = Mixture(clips, torch.full(clips.shape, 1e-4)), Flow(), SamplingRNG(0, range(2))

    class Model:
        def __init__(self) -> None:
            self.schedule = schedule

        def bind(self, cond: Cond = Cond()) -> Bound:
            return mixture.denoiser(schedule)

    known, mask = clips[[2, 5]].double(), gap_mask(120, 30, 60)
    closing = RootCorrection(normal, known, 30, 60)
    found = run(
        inpaint(X0Transform(Model(), closing), Cond(), known, mask, noise, sampler=heun, grid=trailing, steps=12)
    )
    assert torch.equal(found[:, :30], known[:, :30]) and torch.equal(found[:, 60:], known[:, 60:])
    joints, truth = (decode(normal.undo(x)) for x in (found, known))
    assert float((joints - truth)[:, :30].norm(dim=-1).max()) < 1e-9
    assert float((joints - truth)[:, 60:].norm(dim=-1).max()) < 1e-5
    assert float((joints - truth).norm(dim=-1).max()) < 0.1
    assert (acceleration(joints, 20.0) < 1.3 * acceleration(truth, 20.0) + 5).all()


def test_closing_brings_the_root_to_its_place(normal: Normal, clips: Tensor) -> None:
    known = clips[:3].double()
    other = clips[[4, 5, 6]].double()
    map_x0 = RootCorrection(normal, known, 20, 70)(other)
    composite = torch.where(gap_mask(120, 20, 70) == 0, known, map_x0)
    for found, truth in zip(decode_root(normal.undo(composite)), decode_root(normal.undo(known))):
        torch.testing.assert_close(found[:, 70:, [0, 2]], truth[:, 70:, [0, 2]], rtol=0, atol=1e-6)
    # What is closed stays as it is, and only turns and velocities of the root change.
    torch.testing.assert_close(RootCorrection(normal, known, 20, 70)(map_x0), map_x0, rtol=0, atol=1e-9)
    torch.testing.assert_close(map_x0[:, 70:], other[:, 70:], rtol=0, atol=1e-9)
    torch.testing.assert_close(map_x0[:, 20:, 3:], other[:, 20:, 3:], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="before the clip does"):
        RootCorrection(normal, known, 20, 120)


def test_a_frame_says_where_joints_are_in_the_next_one(normal: Normal, clips: Tensor) -> None:
    features = normal.undo(clips.double())
    found = torch.stack([extrapolate(features[:, :frame]) for frame in (1, 2, 60)], dim=1)
    poses = slice(Groups(22).slices()[2].start, Groups(22).slices()[3].stop)
    torch.testing.assert_close(found[..., poses], features[:, [1, 2, 60], poses], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[:, 2, :3], 2 * features[:, 59, :3] - features[:, 58, :3])


def test_joined_frames_go_on_from_what_is_kept(normal: Normal, clips: Tensor) -> None:
    known, other = clips[:3].double(), clips[[4, 5, 6]].double()
    joined = Inertialization(normal, known, 30, 70, 10)
    map_x0 = joined(other)
    joints, truth = (decode(normal.undo(torch.where(gap_mask(120, 30, 70) == 0, known, x))) for x in (map_x0, known))
    assert float((joints - truth)[:, :31].norm(dim=-1).max()) < 1e-5
    # Nothing happens in the middle, outside, or to contacts; what goes on already is left alone.
    torch.testing.assert_close(map_x0[:, 40:60], other[:, 40:60], rtol=0, atol=1e-12)
    assert torch.equal(map_x0[:, :30], other[:, :30]) and torch.equal(map_x0[:, 70:], other[:, 70:])
    assert torch.equal(map_x0[..., -4:], other[..., -4:])
    torch.testing.assert_close(map_x0[:, 69, :-4], (2 * known[:, 70] - known[:, 71])[:, :-4], rtol=0, atol=1e-9)
    # At u = 1 / N a cubic of value d and slope v has lost at most (3 d + 2 N v) / N^2 of going straight.
    bend = (map_x0[:, 32] - 2 * map_x0[:, 31] + map_x0[:, 30])[:, 4:67].abs().max()
    jump = (other[:, 30] - known[:, 29])[:, 4:67].abs().max()
    assert float(bend) < 0.2 * float(jump)
    for first, last, may in ((0, 120, []), (30, 120, range(30, 40)), (0, 70, range(60, 70))):
        part = Inertialization(normal, known, first, last)(other)
        changed = ((part - other).abs().amax((0, 2)) > 1e-9).nonzero().flatten().tolist()
        assert set(changed) == set(may)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_short_gaps_are_joined_at_both_ends(normal: Normal, clips: Tensor, size: int) -> None:
    known, other = clips[:3].double(), clips[[4, 5, 6]].double()
    map_x0 = Inertialization(normal, known, 30, 30 + size)(other)
    poses = Groups(22).slices()[3]
    torch.testing.assert_close(normal.undo(map_x0)[:, 30, poses], normal.undo(known)[:, 30, poses], rtol=0, atol=1e-6)
    if size > 1:
        ahead = 2 * known[:, 30 + size] - known[:, 31 + size]
        torch.testing.assert_close(map_x0[:, 29 + size, :-4], ahead[:, :-4], rtol=0, atol=1e-9)


def test_a_gap_filled_by_a_stranger_has_no_seams(normal: Normal, clips: Tensor) -> None:
    known, other = clips[:3].double(), clips[[4, 5, 6]].double()
    made = torch.where(gap_mask(120, 30, 70) == 0, known, gap_constraint(normal, known, 30, 70)(other))
    joints, truth, rough = (
        decode(normal.undo(x)) for x in (made, known, torch.where(gap_mask(120, 30, 70) == 0, known, other))
    )
    assert float((joints - truth)[:, 70:].norm(dim=-1).max()) < 1e-5
    at_seams = [acceleration(x[:, span], 20.0) for x in (joints, rough) for span in (slice(28, 32), slice(68, 72))]
    assert float(torch.stack(at_seams[:2]).max()) < 1.5 * float(acceleration(truth, 20.0).max())
    assert float(torch.stack(at_seams[:2]).max()) < 0.5 * float(torch.stack(at_seams[2:]).max())


def test_edits_keep_what_they_should(normal: Normal, clips: Tensor, system: Diffusion) -> None:
    known, noise = clips[:2], SamplingRNG(0, [0, 1])
    on = inpaint_clips(system, "walks on", known, gap_mask(120, 40, 120), noise, SAMPLING)
    assert torch.equal(on[:, :40], known[:, :40]) and not torch.allclose(on[:, 40:], known[:, 40:], atol=0.1)
    torch.testing.assert_close(
        decode(normal.undo(on))[:, :41, 0], decode(normal.undo(known))[:, :41, 0], atol=2, rtol=0
    )
    upper = inpaint_clips(system, "waves", known, limb_mask(120, upper_body()), noise, SAMPLING)
    legs = joint_features([joint for joint in range(22) if joint not in upper_body()]).bool()
    assert torch.equal(upper[..., legs], known[..., legs])
    joints, truth = decode(normal.undo(upper)), decode(normal.undo(known))
    torch.testing.assert_close(joints[:, :, [0, 1, 4, 7, 10]], truth[:, :, [0, 1, 4, 7, 10]])
    assert float((joints - truth)[:, :, 20].norm(dim=-1).mean()) > 0.05
    for first, last in ((5, 5), (-1, 4), (7, 121)):
        with pytest.raises(ValueError, match="is none"):
            gap_mask(120, first, last)


def test_kept_frames_are_kept_at_every_estimate(normal: Normal, clips: Tensor, system: Diffusion) -> None:
    known, mask = clips[:1], gap_mask(120, 30, 60)
    cond_of_text = system.conditioner({"caption": ["sits"], "valid": torch.ones(1, 120, dtype=torch.bool)})
    bound = Inpainted(X0Transform(system.guided(2.0), RootCorrection(normal, known, 30, 60)), known, mask).bind(
        cond_of_text
    )
    clean = bound(torch.randn(1, 120, 263), torch.tensor(0.7))
    assert torch.equal(clean[:, :30], known[:, :30]) and torch.equal(clean[:, 60:], known[:, 60:])
    root = [decode_root(normal.undo(x))[1][:, 60] for x in (clean, known)]
    torch.testing.assert_close(root[0], root[1], rtol=0, atol=1e-4)


def test_segments_overlap_and_add_up() -> None:
    spans = segments([Segment("walks", 40), Segment("sits", 30), Segment("waves", 20)], 8)
    assert [start for start, _ in spans] == [0, 32, 54]
    total = torch.zeros(74)
    for start, weight in spans:
        total[start : start + len(weight)] += weight
    torch.testing.assert_close(total, torch.ones(74))
    with pytest.raises(ValueError, match="do not fit"):
        segments([Segment("walks", 40), Segment("sits", 10), Segment("waves", 20)], 8)
    with pytest.raises(ValueError, match="at least one"):
        segments([], 8)


def test_a_sequence_of_one_is_plain_sampling_and_ends_are_their_own(system: Diffusion) -> None:
    noise = SamplingRNG(3, [0, 1])
    one = sequence(system, [Segment("walks", 40)], 8, noise, SAMPLING)
    asked = {"caption": ["walks"] * 2, "valid": torch.ones(2, 40, dtype=torch.bool)}
    steps = system.sample(noise, (40, 263), asked, sampler=dpmpp_2m, grid=trailing, steps=3, guidance=2.0)
    assert torch.equal(one, run(steps))
    both = sequence(system, [Segment("walks", 40), Segment("sits", 30)], 8, noise, SAMPLING)
    other = sequence(system, [Segment("walks", 40), Segment("jumps", 30)], 8, noise, SAMPLING)
    assert both.shape == (2, 62, 263)
    assert not torch.allclose(both[:, 40:], other[:, 40:])
    alone = sequence(system, [Segment("walks", 40), Segment("sits", 30)], 8, SamplingRNG(3, [1]), SAMPLING)
    torch.testing.assert_close(alone[0], both[1], rtol=0, atol=1e-5)


def test_what_a_guidance_does_besides_is_done_to_the_whole_sequence(system: Diffusion) -> None:
    def counting(denoiser: DenoiserLike, null: Cond, scale: float) -> DenoiserLike:
        """Says how many frames it sees, in place of x0."""
        return X0Transform(Guided(denoiser, null, scale), lambda clean: torch.full_like(clean, clean.shape[1]))

    cond_of_text = [Segment("walks", 40), Segment("sits", 30)]
    made = sequence(system, cond_of_text, 8, SamplingRNG(3, [0]), dataclasses.replace(SAMPLING, guide=counting))
    torch.testing.assert_close(made, torch.full_like(made, 62.0))


def test_limbs_take_different_prompts(system: Diffusion) -> None:
    noise, upper = SamplingRNG(3, [0]), upper_body()
    lower = [joint for joint in range(22) if joint not in upper]
    same = compose_limbs(system, [("walks", upper), ("walks", lower)], 24, noise, SAMPLING)
    torch.testing.assert_close(same, sequence(system, [Segment("walks", 24)], 0, noise, SAMPLING))
    mixed = compose_limbs(system, [("waves", upper), ("walks", lower)], 24, noise, SAMPLING)
    assert float((mixed - same)[..., joint_features(upper).bool()].abs().max()) > 1e-3
    with pytest.raises(ValueError, match="no part says anything"):
        compose_limbs(system, [("waves", upper)], 24, noise, SAMPLING)


def test_parts_of_a_network_are_pulled_together(system: Diffusion) -> None:
    noise, upper = SamplingRNG(3, [0, 1]), upper_body()
    lower = [joint for joint in range(22) if joint not in upper]
    script = [("waves", upper), ("walks", lower)]
    plain, pulled = (compose_limbs(system, script, 24, noise, SAMPLING, correction=pull) for pull in (0.0, 0.01))
    assert bool(pulled.isfinite().all()) and float((plain - pulled).abs().max()) > 1e-5
    same_prompts = [("walks", upper), ("walks", lower)]
    same = [compose_limbs(system, same_prompts, 24, noise, SAMPLING, correction=pull) for pull in (0.0, 0.01)]
    torch.testing.assert_close(same[0], same[1], rtol=0, atol=1e-4)
