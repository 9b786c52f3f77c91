"""What CLIP and T5 say to Stable Diffusion, SDXL, SD3 and Flux is what diffusers' pipelines make of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.cond import Cond
from core.condition import Conditioner
from core.condition.clip import ClipText, SdxlText
from core.condition.pretrained import Clip, open_clip, open_t5
from core.condition.t5 import FluxText, Sd3Text

CAPTIONS = ["a red cat, and a dog", "dog! " * 60, ""]
LENGTH = 20  # of T5's text


def opened(folder: Path) -> Any:
    return DiffusionPipeline.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def stable_diffusion(folders: dict[str, Path]) -> Path:
    return folders["stable_diffusion"]


@pytest.fixture(scope="module")
def sdxl(folders: dict[str, Path]) -> Path:
    return folders["sdxl"]


@pytest.fixture(scope="module")
def sd3(folders: dict[str, Path]) -> Path:
    return folders["sd3"]


@pytest.fixture(scope="module")
def flux(folders: dict[str, Path]) -> Path:
    return folders["flux"]


def clip_of(folder: Path, number: str = "") -> Clip:
    return open_clip(folder / f"tokenizer{number}", folder / f"text_encoder{number}")


def clips_of(folder: Path) -> list[Clip]:
    return [clip_of(folder), clip_of(folder, "_2")]


def same(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_stable_diffusion_reads_the_last_state_after_its_norm(stable_diffusion: Path) -> None:
    wanted, unwanted = opened(stable_diffusion).encode_prompt(CAPTIONS, "cpu", 1, True)
    conditioner = ClipText(clip_of(stable_diffusion))
    same(conditioner({"caption": CAPTIONS}).tokens, wanted)
    same(conditioner.null(3).tokens, unwanted)
    assert wanted.shape == (3, 77, 32) and (wanted[0] - wanted[1]).abs().max() > 0.1


@torch.no_grad()
def test_clip_skip_leaves_out_layers_but_not_the_norm(stable_diffusion: Path) -> None:
    clip = clip_of(stable_diffusion)
    encoder = clip.encoder
    states = encoder(clip.token_ids(CAPTIONS), output_hidden_states=True).hidden_states
    for skip in (1, 2):
        same(ClipText(clip, skip)({"caption": CAPTIONS}).tokens, encoder.final_layer_norm(states[-1 - skip]))
    with pytest.raises(ValueError, match="3 layers"):
        ClipText(clip, 4).null(1)


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


def test_what_is_too_long_is_truncated_with_a_warning(stable_diffusion: Path, flux: Path) -> None:
    """As diffusers cuts it: the first 75 tokens of CLIP are read, between its marks."""
    clip = clip_of(stable_diffusion)
    caption = "cat " * 75 + "dog red " * 5_000
    conditioner = ClipText(clip)
    cut = conditioner.truncated(["a cat", caption])
    assert cut[0] == "" and cut[1].split() == ["dog", "red"] * 5_000
    kept = conditioner({"caption": ["cat " * 75]}).tokens
    same(conditioner({"caption": [caption]}).tokens, kept)
    # Of two encoders that read unequally far, what neither reads.
    t5 = open_t5(flux / "tokenizer_2", flux / "text_encoder_2", 101)
    assert FluxText(clip_of(flux), t5).truncated(["cat " * 90, "cat " * 100 + "dog"]) == ["", "dog"]


def test_encoders_are_frozen(stable_diffusion: Path) -> None:
    conditioner = ClipText(clip_of(stable_diffusion)).train()
    assert not any(parameter.requires_grad for parameter in conditioner.parameters())
    assert not any(module.training for module in conditioner.clip.encoder.modules())
    assert conditioner({"caption": ["cat"]}).tokens.grad_fn is None


@pytest.mark.parametrize("batch", [{}, {"caption": "cat"}, {"caption": ["cat", 3]}, {"caption": [None]}])
def test_captions_must_be_a_list_of_texts(stable_diffusion: Path, sdxl: Path, batch: dict[str, Any]) -> None:
    conditioners: list[Conditioner] = [ClipText(clip_of(stable_diffusion)), SdxlText(clips_of(sdxl), width=8)]
    for conditioner in conditioners:
        with pytest.raises(ValueError, match="caption"):
            conditioner(batch)


def test_sizes_must_be_pairs(sdxl: Path) -> None:
    with pytest.raises(ValueError, match="'size' must be two numbers"):
        SdxlText(clips_of(sdxl), width=8)({"caption": ["cat"], "size": 32})


def test_names_of_older_files_and_several_shards_are_read(stable_diffusion: Path, tmp_path: Path) -> None:
    """Public files of CLIP have a prefix that new ones lack, and a buffer of positions that is no weight."""
    expected = ClipText(clip_of(stable_diffusion)).null(1).tokens
    old, parts = tmp_path / "old", tmp_path / "parts"
    shutil.copytree(stable_diffusion / "text_encoder", old)
    tensors = {f"text_model.{name}": value for name, value in load_file(old / "model.safetensors").items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, old / "model.safetensors", {"format": "pt"})
    opened(stable_diffusion).text_encoder.save_pretrained(parts, max_shard_size="20KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    for folder in (old, parts):
        same(ClipText(open_clip(stable_diffusion / "tokenizer", folder)).null(1).tokens, expected)


def test_what_cannot_be_opened_is_one_sentence(stable_diffusion: Path, tmp_path: Path) -> None:
    tokenizer, whole = stable_diffusion / "tokenizer", stable_diffusion / "text_encoder"
    folders = {name: tmp_path / name for name in ("missing", "short", "pickled", "config", "other")}
    for folder in folders.values():
        shutil.copytree(whole, folder)
    tensors = load_file(whole / "model.safetensors")
    tensors.pop("final_layer_norm.weight")
    save_file(tensors, folders["missing"] / "model.safetensors", {"format": "pt"})
    data = (whole / "model.safetensors").read_bytes()
    (folders["short"] / "model.safetensors").write_bytes(data[: len(data) // 2])
    (folders["pickled"] / "model.safetensors").rename(folders["pickled"] / "pytorch_model.bin")
    (folders["config"] / "config.json").unlink()
    config = (whole / "config.json").read_text().replace('"intermediate_size": 64', '"intermediate_size": 48')
    (folders["other"] / "config.json").write_text(config)
    messages = {
        "missing": "final_layer_norm.weight is missing",
        "short": "cut short",
        "pickled": "convert its pickle",
        "config": "no readable config.json",
        "other": "shape|cut short",
    }
    for name, words in messages.items():
        with pytest.raises(ValueError, match=words) as error:
            open_clip(tokenizer, folders[name])
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="tokenizer"):
        open_clip(tmp_path / "nowhere", whole)


def test_conditions_stand_in_a_batch(sdxl: Path) -> None:
    """Conditions of samples joined are the samples' together, and dropped ones become the null."""
    conditioner = SdxlText(clips_of(sdxl), size=(32, 32), width=8)
    one, two = (conditioner({"caption": [caption]}) for caption in ("cat", "dog"))
    both = conditioner({"caption": ["cat", "dog"]})
    same(Cond.cat([one, two]).tokens, both.tokens)
    dropped = both.where(torch.tensor([True, False]), conditioner.null(2))
    same(dropped.tokens, torch.cat([one.tokens, conditioner.null(1).tokens]))
