"""Changes of clips of any length: gap after gap and window after window, what is kept kept to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.denoiser import Denoiser
from core.grid import trailing
from core.prediction import X0
from core.random import SamplingRNG
from core.recipe import Change, Sampling
from core.sample.dpm import dpmpp_2m
from core.schedule import Cosine
from core.systems.diffusion import Diffusion
from motion.changing import OVERLAP, parts, revised, spans_of, told, wanted
from motion.editing import features_of
from motion.features import Normal, decode_root
from motion.generator import Motions, normal_of
from motion.nn.mdm import MDM, Encoder
from motion.skeleton import HUMAN
from motion.told import reading

SAMPLING = Sampling(dpmpp_2m, trailing, 2)


@pytest.fixture(scope="module")
def normal() -> Normal:
    return normal_of()


@pytest.fixture(scope="module")
def rows(normal: Normal) -> Tensor:
    """A clip (120, 263), normalised."""
    x: Tensor = Motions(1, normal).get([0])["x"]
    return x[0]


@pytest.fixture(scope="module")
def system() -> Diffusion:
    torch.manual_seed(0)
    model = Diffusion(
        Denoiser(MDM(263, 16, Encoder(16, 16, 1, 2, dropout=0.0), 16), Cosine(), X0()), reading(16, 16, 1)
    )
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    return model.eval()


def test_parts_of_a_body_are_apart() -> None:
    named = parts()
    assert sorted([*named["upper"], *named["lower"]]) == list(range(22))
    assert [HUMAN.names[joint] for joint in named["left-arm"]] == [
        f"left_{name}" for name in ("collar", "shoulder", "elbow", "wrist")
    ]


def test_masks_say_what_was_asked(rows: Tensor) -> None:
    known, mask = wanted(rows, Change(keep=((0, 20), (60, None))))
    assert torch.equal(known[0], rows) and spans_of(mask[0].any(-1)) == [(20, 60)] and bool((mask[0, 20:60] == 1).all())
    _, mask = wanted(rows, Change(keep=((5, 120),), part="left-arm"))
    assert torch.equal(mask[0, 2], features_of(parts()["left-arm"])) and not mask[0, 5:].any()
    known, mask = wanted(rows, Change(part="upper", seconds=7))
    assert known.shape[1] == 140 and bool((mask[0, 120:] == 1).all()) and not mask[0, :120, :4].any()
    assert wanted(rows, Change(seconds=8))[1][0].any(-1).nonzero()[0] == 120
    assert wanted(rows, Change(keep=((0, 10),), seconds=3))[0].shape[1] == 60


def test_long_clips_are_changed_window_after_window(normal: Normal, rows: Tensor, system: Diffusion) -> None:
    known = torch.cat([rows, rows, rows])[None].expand(2, -1, -1)
    mask = torch.zeros(1, 360, 263)
    mask[:, 10:40], mask[:, 100:150], mask[:, 300:] = 1, 1, 1
    found = revised(system, "walks", known, mask, SamplingRNG(0, [0, 1]), SAMPLING, normal, 80)
    kept = mask[0, :, 0] == 0
    assert torch.equal(found[:, kept], known[:, kept])
    assert bool(((found - known).abs().amax(-1) > 1e-3)[:, ~kept].all())
    # Every gap between kept frames closes, so the root is where it was.
    roots = [decode_root(normal.undo(x.double()))[1] for x in (found, known)]
    for span in (slice(40, 100), slice(150, 300)):
        torch.testing.assert_close(roots[0][:, span], roots[1][:, span], rtol=0, atol=1e-3)
    limbs = features_of(parts()["upper"]).expand(1, 360, -1)
    found = revised(system, "walks", known, limbs, SamplingRNG(0, [0, 1]), SAMPLING, normal, 80)
    assert torch.equal(found[..., limbs[0, 0] == 0], known[..., limbs[0, 0] == 0])
    assert bool(((found - known).abs().amax(-1) > 1e-3).all())


def test_a_gap_that_is_too_long_is_refused(normal: Normal, rows: Tensor, system: Diffusion) -> None:
    mask = torch.zeros(1, 120, 263)
    mask[:, 10:100] = 1
    with pytest.raises(ValueError, match=r"a gap of 4.5 s .* fills 2.95 s"):
        revised(system, "walks", rows[None], mask, SamplingRNG(0, [0]), SAMPLING, normal, 80)


def test_segments_last_as_long_as_asked() -> None:
    found = told("walks; waves ;sits", [3, 2, 5], 120)
    assert [segment.caption for segment in found] == ["walks", "waves", "sits"]
    assert sum(segment.frames for segment in found) - 2 * OVERLAP == 200
    assert [segment.frames for segment in found] == [66, 52, 106]
    assert told("walks", [6], 120)[0].frames == 120
    for seconds in ([0.1], [float("nan")], [7]):
        with pytest.raises(ValueError, match="cannot last"):
            told("walks", seconds, 120)
