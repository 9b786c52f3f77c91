"""Whole systems: from a folder of diffusers into one file, and out of it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests.app.test_files import TINY_FLUX, TINY_SD3, VAE, WEIGHTS, WIDE_XL, same, saved
from tests.support.commands import Command
from tests.support.text_unets import SD2


def text(act: str, folder: Path, kind: type[nn.Module] = CLIPTextModelWithProjection, layers: int = 2) -> Path:
    """A folder with a CLIP encoder."""
    config = CLIPTextConfig(
        vocab_size=30,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=1,
        max_position_embeddings=11,
        hidden_act=act,
        projection_dim=64,
    )
    return saved(kind(config), folder)


def reopened(folder: Path) -> dict[str, torch.Tensor]:
    """A text encoder's tensors, by names that do not depend on the version of transformers."""
    return {name.removeprefix("text_model."): value for name, value in load_file(folder / "model.safetensors").items()}


@pytest.mark.parametrize("system", ["sdxl", "refiner", "sd3", "flux"])
def test_whole_systems_in_one_file_there_and_back(command: Command, tmp_path: Path, system: str) -> None:
    folder, file = tmp_path / system, tmp_path / "whole.safetensors"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    channels = 4 if "sd3" not in system and system != "flux" else 16
    bare = {"use_quant_conv": False, "use_post_quant_conv": False} if channels == 16 else {}
    saved(AutoencoderKL(**{**VAE, "latent_channels": channels, **bare}), folder / "vae")
    t5 = T5Config(vocab_size=20, d_model=32, d_kv=8, d_ff=24, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu")
    if system in ("sdxl", "refiner"):
        width = 2048 if system == "sdxl" else 1280
        saved(UNet2DConditionModel(**{**WIDE_XL, "cross_attention_dim": width}), folder / "unet")
        text("gelu", folder / "text_encoder_2")
        starts = {
            "model.diffusion_model.",
            "first_stage_model.",
            f"conditioner.embedders.{int(system == 'sdxl')}.model.",
        }
        if system == "sdxl":
            text("quick_gelu", folder / "text_encoder", CLIPTextModel)
            starts.add("conditioner.embedders.0.transformer.")
    elif system == "sd3":
        saved(SD3Transformer2DModel(**TINY_SD3), folder / "transformer")
        text("quick_gelu", folder / "text_encoder")
        text("gelu", folder / "text_encoder_2")
        saved(T5EncoderModel(t5), folder / "text_encoder_3")
        starts = {f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl")}
        starts |= {"model.diffusion_model.", "first_stage_model."}
    else:
        saved(FluxTransformer2DModel(**TINY_FLUX), folder / "transformer")
        text("quick_gelu", folder / "text_encoder", CLIPTextModel)
        saved(T5EncoderModel(t5), folder / "text_encoder_2")
        starts = {"model.diffusion_model.", "vae.", *(f"text_encoders.{n}.transformer." for n in ("clip_l", "t5xxl"))}
    status, _, error = command("convert", folder, file, "--to", "original")
    assert status == 0, error
    names = list(load_file(file))
    assert all(any(name.startswith(start) for name in names) for start in starts)
    assert all(name.startswith(tuple(starts)) for name in names)
    _, printed, _ = command("inspect", file)
    assert "in a file of a whole system" in printed and "unknown" not in printed

    status, _, error = command("convert", file, tmp_path / "again", "--to", "diffusers")
    assert status == 0, error
    parts = sorted(part.name for part in folder.iterdir() if part.is_dir())
    assert parts == sorted(part.name for part in (tmp_path / "again").iterdir())
    for part in parts:
        if not part.startswith("text_encoder"):
            same(folder / part / WEIGHTS, tmp_path / "again" / part / WEIGHTS)
            continue
        first, second = reopened(folder / part), reopened(tmp_path / "again" / part)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
        wanted, found = (json.loads((f / part / "config.json").read_text()) for f in (folder, tmp_path / "again"))
        for key in ("hidden_act", "hidden_size", "d_model", "num_heads", "d_kv", "num_hidden_layers", "num_layers"):
            assert wanted.get(key) == found.get(key), key
    config = json.loads((tmp_path / "again/vae/config.json").read_text())
    scales = {"sdxl": 0.13025, "refiner": 0.13025, "sd3": 1.5305, "flux": 0.3611}
    assert config["scaling_factor"] == scales[system]


def test_stable_diffusion_2_keeps_all_but_the_last_layer_of_its_text(command: Command, tmp_path: Path) -> None:
    clip, file = text("gelu", tmp_path / "clip", CLIPTextModel, layers=3), tmp_path / "clip.safetensors"
    assert command("convert", clip, file, "--to", "original")[0] == 0
    tensors = load_file(file)
    last = {name.replace("resblocks.2.", "resblocks.3."): value + 1 for name, value in tensors.items() if ".2." in name}
    others = {"text_projection": torch.ones(64, 64), "logit_scale": torch.ones(())}
    whole = {f"cond_stage_model.model.{name}": value for name, value in (tensors | last | others).items()}
    config = {**SD2, "block_out_channels": (64, 128), "attention_head_dim": (1, 2), "cross_attention_dim": 1024}
    unet = saved(UNet2DConditionModel(**config), tmp_path / "unet")
    assert command("convert", unet, tmp_path / "unet.safetensors", "--to", "original")[0] == 0
    save_file(whole | load_file(tmp_path / "unet.safetensors"), tmp_path / "whole.safetensors")
    assert command("convert", tmp_path / "whole.safetensors", tmp_path / "out")[0] == 0
    first, second = reopened(clip), reopened(tmp_path / "out" / "text_encoder")
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    again = CLIPTextModel.from_pretrained(tmp_path / "out" / "text_encoder")
    assert again.config.hidden_act == "gelu" and again.config.num_hidden_layers == 3
