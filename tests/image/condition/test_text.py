"""What CLIP and T5 say to SDXL, SD3 and Flux is what diffusers' pipelines make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.cond import Cond
from core.text.pretrained import Clip, open_t5
from image.condition.sdxl import SdxlText
from image.condition.t5 import FluxText, Sd3Text
from tests.support.encoders import CAPTIONS, clip_of, opened, same

LENGTH = 20  # of T5's text


@pytest.fixture(scope="module")
def sdxl(folders: dict[str, Path]) -> Path:
    return folders["sdxl"]


@pytest.fixture(scope="module")
def sd3(folders: dict[str, Path]) -> Path:
    return folders["sd3"]


@pytest.fixture(scope="module")
def flux(folders: dict[str, Path]) -> Path:
    return folders["flux"]


def clips_of(folder: Path) -> list[Clip]:
    return [clip_of(folder), clip_of(folder, "_2")]


@torch.no_grad()
def test_sdxl_reads_two_penultimate_states_and_is_conditioned_on_numbers(sdxl: Path) -> None:
    pipeline = opened(sdxl)
    wanted, unwanted, pooled, unpooled = pipeline.encode_prompt(CAPTIONS, device="cpu")
    conditioner = SdxlText(clips_of(sdxl), size=(32, 24), width=8)
    batch = {"caption": CAPTIONS, "size": torch.tensor([[48, 40]] * 3), "crop": (4, 2), "target": (32, 24)}
    cond, null = conditioner(batch), conditioner.null(3)
    same(cond.tokens, wanted)
    same(null.tokens, unwanted)
    for found, text, numbers in ((cond, pooled, [48, 40, 4, 2, 32, 24]), (null, unpooled, [32, 24, 0, 0, 32, 24])):
        waves = pipeline.unet.add_time_proj(torch.tensor(numbers, dtype=torch.float32)).flatten().expand(3, -1)
        same(found.vector, torch.cat([text, waves], dim=1))
    assert unpooled.abs().max() == 0 and wanted.shape == (3, 77, 56)


@torch.no_grad()
def test_sdxl_without_zeros_moves_away_from_the_empty_caption(sdxl: Path) -> None:
    pipeline = opened(sdxl)
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    _, unwanted, _, unpooled = pipeline.encode_prompt(CAPTIONS, device="cpu")
    null = SdxlText(clips_of(sdxl), width=8, zeros=False).null(3)
    same(null.tokens, unwanted)
    assert null.vector is not None
    same(null.vector[:, : unpooled.shape[1]], unpooled)


@torch.no_grad()
def test_the_refiner_reads_the_second_encoder_and_takes_a_score(sdxl: Path) -> None:
    pipeline = opened(sdxl)
    wanted, _, pooled, _ = pipeline.encode_prompt(CAPTIONS, device="cpu")
    refiner = SdxlText(clips_of(sdxl)[1:], size=(32, 32), width=8, scores=(6.0, 2.5))
    cond, null = refiner({"caption": CAPTIONS}), refiner.null(3)
    same(cond.tokens, wanted[..., 24:])
    for found, text, score in ((cond, pooled, 6.0), (null, torch.zeros_like(pooled), 2.5)):
        waves = pipeline.unet.add_time_proj(torch.tensor([32, 32, 0, 0, score])).flatten().expand(3, -1)
        same(found.vector, torch.cat([text, waves], dim=1))


@torch.no_grad()
def test_sd3_reads_two_clips_side_by_side_and_then_t5(sd3: Path) -> None:
    pipeline = opened(sd3)
    t5 = open_t5(sd3 / "tokenizer_3", sd3 / "text_encoder_3", LENGTH)
    for third in (t5, None):
        conditioner = Sd3Text(clips_of(sd3), third, width=32, length=LENGTH)
        if third is None:
            pipeline.text_encoder_3 = None
        expected = pipeline.encode_prompt(CAPTIONS, None, None, "cpu", max_sequence_length=LENGTH)
        wanted, unwanted, pooled, unpooled = expected
        cond, null = conditioner({"caption": CAPTIONS}), conditioner.null(3)
        same(cond.tokens, wanted)
        same(cond.vector, pooled)
        same(null.tokens, unwanted)
        same(null.vector, unpooled)
    with pytest.raises(ValueError, match="do not fit"):
        Sd3Text(clips_of(sd3), t5, width=16).null(1)


@torch.no_grad()
def test_flux_reads_t5_and_takes_clip_and_its_guidance(flux: Path) -> None:
    t5 = open_t5(flux / "tokenizer_2", flux / "text_encoder_2", LENGTH)
    conditioner = FluxText(clip_of(flux), t5)
    wanted, pooled, _ = opened(flux).encode_prompt(CAPTIONS, device="cpu", max_sequence_length=LENGTH)
    cond = conditioner({"caption": CAPTIONS, "guidance": [1.0, 2.0, 3.0]})
    same(cond.tokens, wanted)
    same(cond.vector, pooled)
    assert cond.guidance is not None and cond.guidance.tolist() == [1, 2, 3]
    assert conditioner({"caption": CAPTIONS}).guidance.tolist() == [3.5] * 3
    same(conditioner.null(2).tokens, wanted[2:].expand(2, -1, -1))
    with pytest.raises(ValueError, match="finite"):
        conditioner({"caption": CAPTIONS, "guidance": float("nan")})
    assert FluxText(clip_of(flux), t5, guidance=None)({"caption": CAPTIONS}).guidance is None


def test_what_neither_encoder_reads_is_truncated(flux: Path) -> None:
    t5 = open_t5(flux / "tokenizer_2", flux / "text_encoder_2", 101)
    assert FluxText(clip_of(flux), t5).truncated(["cat " * 90, "cat " * 100 + "dog"]) == ["", "dog"]


def test_sizes_must_be_pairs(sdxl: Path) -> None:
    with pytest.raises(ValueError, match="'size' must be two numbers"):
        SdxlText(clips_of(sdxl), width=8)({"caption": ["cat"], "size": 32})


def test_conditions_stand_in_a_batch(sdxl: Path) -> None:
    """Conditions of samples joined are the samples' together, and dropped ones become the null."""
    conditioner = SdxlText(clips_of(sdxl), size=(32, 32), width=8)
    one, two = (conditioner({"caption": [caption]}) for caption in ("cat", "dog"))
    both = conditioner({"caption": ["cat", "dog"]})
    same(Cond.cat([one, two]).tokens, both.tokens)
    dropped = both.where(torch.tensor([True, False]), conditioner.null(2))
    same(dropped.tokens, torch.cat([one.tokens, conditioner.null(1).tokens]))


@pytest.mark.parametrize("batch", [{}, {"caption": "cat"}, {"caption": ["cat", 3]}, {"caption": [None]}])
def test_captions_must_be_a_list_of_texts(sdxl: Path, batch: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="caption"):
        SdxlText(clips_of(sdxl), width=8)(batch)
