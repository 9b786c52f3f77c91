"""What CLIP says to Stable Diffusion is what diffusers' pipeline makes of it; how encoders are opened."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.text.clip import ClipText
from core.text.pretrained import open_clip
from tests.support.encoders import CAPTIONS, clip_of, opened, same


@pytest.fixture(scope="module")
def stable_diffusion(folders: dict[str, Path]) -> Path:
    return folders["stable_diffusion"]


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


def test_what_is_too_long_is_truncated_with_a_warning(stable_diffusion: Path) -> None:
    """As diffusers cuts it: the first 75 tokens of CLIP are read, between its marks."""
    clip = clip_of(stable_diffusion)
    caption = "cat " * 75 + "dog red " * 5_000
    conditioner = ClipText(clip)
    cut = conditioner.truncated(["a cat", caption])
    assert cut[0] == "" and cut[1].split() == ["dog", "red"] * 5_000
    kept = conditioner({"caption": ["cat " * 75]}).tokens
    same(conditioner({"caption": [caption]}).tokens, kept)


def test_encoders_are_frozen(stable_diffusion: Path) -> None:
    conditioner = ClipText(clip_of(stable_diffusion)).train()
    assert not any(parameter.requires_grad for parameter in conditioner.parameters())
    assert not any(module.training for module in conditioner.clip.encoder.modules())
    assert conditioner({"caption": ["cat"]}).tokens.grad_fn is None


@pytest.mark.parametrize("batch", [{}, {"caption": "cat"}, {"caption": ["cat", 3]}, {"caption": [None]}])
def test_captions_must_be_a_list_of_texts(stable_diffusion: Path, batch: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="caption"):
        ClipText(clip_of(stable_diffusion))(batch)


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
