"""`langevin inspect` and `langevin convert`, with diffusers' own readers as the judges of what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from app.description import weights_in
from core.weights.text_unet import load_diffusers
from tests.support.commands import Command
from tests.support.parameters import randomise
from tests.support.pipelines import flux as tiny_flux
from tests.support.pipelines import sd3 as tiny_sd3
from tests.support.pipelines import stable_diffusion
from tests.support.text_unets import SD1, SD2, SDXL

WEIGHTS = "diffusion_pytorch_model.safetensors"
WIDE_XL = {**SDXL, "block_out_channels": (64, 128, 128), "attention_head_dim": (1, 2, 2)}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (32, 64),
    "latent_channels": 4,
}

TINY_SD3: dict[str, Any] = {
    "num_layers": 2,
    "attention_head_dim": 64,
    "num_attention_heads": 1,
    "joint_attention_dim": 32,
    "caption_projection_dim": 64,
    "pooled_projection_dim": 24,
    "pos_embed_max_size": 12,
    "sample_size": 16,
}
TINY_FLUX: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 128,
    "num_attention_heads": 1,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 24,
    "guidance_embeds": True,
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stable_diffusion(tmp_path_factory.mktemp("sd"))


def same(one: Path, two: Path) -> None:
    """The same tensors, bit for bit, under the same names."""
    first, second = load_file(one), load_file(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def saved(net: nn.Module, folder: Path) -> Path:
    randomise(net)
    net.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("config", [SD1, SD2, WIDE_XL], ids=["sd1", "sd2", "sdxl"])
def test_unets_there_and_back(command: Command, tmp_path: Path, config: dict[str, object]) -> None:
    if config is SD2:
        config = {**SD2, "block_out_channels": (64, 128), "attention_head_dim": (1, 2), "cross_attention_dim": 1024}
    folder, file = saved(UNet2DConditionModel(**config), tmp_path / "unet"), tmp_path / "unet.safetensors"
    assert command("convert", folder, file, "--to", "original")[0] == 0
    judged = UNet2DConditionModel.from_single_file(str(file), config=str(folder), local_files_only=True)
    own = UNet2DConditionModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, own[name]) for name, value in judged.state_dict().items())
    assert command("convert", file, tmp_path / "again", "--to", "diffusers")[0] == 0
    same(folder / WEIGHTS, tmp_path / "again" / WEIGHTS)
    again, loading = UNet2DConditionModel.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(loading.values()), loading
    written, read = again.config, json.loads((folder / "config.json").read_text())
    for key in ("block_out_channels", "cross_attention_dim", "use_linear_projection", "addition_embed_type"):
        assert list(written[key]) == read[key] if isinstance(read[key], list) else written[key] == read[key]


def test_a_whole_single_file_and_a_whole_folder(command: Command, tmp_path: Path, pipeline: Path) -> None:
    file, out = tmp_path / "sd.safetensors", tmp_path / "out"
    status, printed, _ = command("convert", pipeline, file, "--to", "original")
    assert status == 0 and "reads a text of width 32" in printed
    prefixes = {name.split(".")[0] for name in load_file(file)}
    assert prefixes == {"model", "first_stage_model", "cond_stage_model"}
    unet = UNet2DConditionModel.from_single_file(
        str(file), config=str(pipeline), subfolder="unet", local_files_only=True
    )
    own = load_file(pipeline / "unet" / WEIGHTS)
    assert all(torch.equal(value, own[name]) for name, value in unet.state_dict().items())

    tensors = load_file(file) | {"alphas_cumprod": torch.ones(3), "model_ema.decay": torch.ones(())}
    save_file(tensors, file)
    status, printed, _ = command("convert", file, out, "--to", "diffusers")
    assert status == 0 and "Tokenizers" in printed
    assert sorted(part.name for part in out.iterdir()) == ["text_encoder", "unet", "vae"]
    same(pipeline / "unet" / WEIGHTS, out / "unet" / WEIGHTS)
    same(pipeline / "vae" / WEIGHTS, out / "vae" / WEIGHTS)
    clip = CLIPTextModel.from_pretrained(pipeline / "text_encoder")
    again = CLIPTextModel.from_pretrained(out / "text_encoder")
    state = clip.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(("projected", "layers"), [(True, 2), (False, 3)])
def test_open_clip_there_and_back(command: Command, tmp_path: Path, projected: bool, layers: int) -> None:
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    config = CLIPTextConfig(
        vocab_size=30,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=11,
        hidden_act="gelu",
        projection_dim=48,
    )
    folder, file = saved(kind(config), tmp_path / "clip"), tmp_path / "clip.safetensors"
    assert command("convert", folder, file, "--to", "original")[0] == 0
    tensors = load_file(file)
    assert tensors["transformer.resblocks.1.attn.in_proj_weight"].shape == (384, 128)
    if projected:
        # Their converter sizes its rows by the projection, which has to be as wide as the encoder.
        assert torch.equal(
            tensors["text_projection"].t(), load_file(folder / "model.safetensors")["text_projection.weight"]
        )
    prefixed = {f"cond_stage_model.model.{name}": value for name, value in tensors.items() if name != "text_projection"}
    judged = convert_open_clip_checkpoint(CLIPTextModel(config), prefixed, prefix="cond_stage_model.model.")
    judged = judged if isinstance(judged, dict) else judged.state_dict()
    own = {name.removeprefix("text_model."): value for name, value in load_file(folder / "model.safetensors").items()}
    judged = {name.removeprefix("text_model."): value for name, value in judged.items() if "position_ids" not in name}
    assert judged.keys() == own.keys() - {"text_projection.weight"}
    assert all(torch.equal(value, own[name]) for name, value in judged.items())

    assert command("convert", file, tmp_path / "again", "--to", "diffusers")[0] == 0
    places = torch.arange(7)[None]
    with torch.no_grad():
        wanted = kind.from_pretrained(folder)(places).last_hidden_state
        found = kind.from_pretrained(tmp_path / "again")(places).last_hidden_state
    assert torch.equal(found, wanted)


def test_transformers_there_and_back(command: Command, tmp_path: Path) -> None:
    sd3, flux = SD3Transformer2DModel(**TINY_SD3, qk_norm="rms_norm"), FluxTransformer2DModel(**TINY_FLUX)
    for name, net in (("sd3", sd3), ("flux", flux)):
        folder, file = saved(net, tmp_path / name), tmp_path / f"{name}.safetensors"
        assert command("convert", folder, file, "--to", "original")[0] == 0
        assert command("convert", file, tmp_path / f"{name}-again", "--to", "diffusers")[0] == 0
        same(folder / WEIGHTS, tmp_path / f"{name}-again" / WEIGHTS)
        _, loading = type(net).from_pretrained(tmp_path / f"{name}-again", output_loading_info=True)
        assert not loading["missing_keys"] and not loading["unexpected_keys"]


def test_autoencoders_and_the_scale_of_their_latents(command: Command, tmp_path: Path) -> None:
    folder, file = saved(AutoencoderKL(**VAE), tmp_path / "vae"), tmp_path / "vae.safetensors"
    assert command("convert", folder, file, "--to", "original")[0] == 0
    status, printed, _ = command("convert", file, tmp_path / "again", "--to", "diffusers")
    assert status == 0 and "0.18215" in printed
    same(folder / WEIGHTS, tmp_path / "again" / WEIGHTS)
    options = ("--to", "diffusers", "--scale", 0.3611, "--shift", 0.1159)
    assert command("convert", file, tmp_path / "scaled", *options)[0] == 0
    config = json.loads((tmp_path / "scaled/config.json").read_text())
    assert (config["scaling_factor"], config["shift_factor"]) == (0.3611, 0.1159)
    wide = saved(AutoencoderKL(**{**VAE, "latent_channels": 16}), tmp_path / "wide")
    assert command("convert", wide, tmp_path / "wide.safetensors", "--to", "original")[0] == 0
    status, _, error = command("convert", tmp_path / "wide.safetensors", tmp_path / "no", "--to", "diffusers")
    assert status == 2 and "--scale" in error and not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_precisions(command: Command, tmp_path: Path, name: str) -> None:
    config = {key: value for key, value in SD1.items() if key not in ("out_channels", "up_block_types", "sample_size")}
    for net in (UNet2DConditionModel(**SD1), ControlNetModel(**config)):
        folder, out = saved(net, tmp_path / type(net).__name__), tmp_path / f"{type(net).__name__}-half"
        assert command("convert", folder, out, "--to", "diffusers", "--dtype", name)[0] == 0
        wanted, found = load_file(folder / WEIGHTS), load_file(out / WEIGHTS)
        assert wanted.keys() == found.keys()
        assert all(torch.equal(value.to(getattr(torch, name)), found[key]) for key, value in wanted.items())
        assert (out / "config.json").exists()


def test_shards_and_variants(command: Command, tmp_path: Path) -> None:
    """Of several variants the one without a name is meant, whole or in shards."""
    net = UNet2DConditionModel(**SD1)
    randomise(net)
    folder = tmp_path / "unet"
    net.save_pretrained(folder, max_shard_size="1MB")
    net.half().save_pretrained(folder, variant="fp16")
    assert len(weights_in(folder)) > 1 and not any("fp16" in file.name for file in weights_in(folder))
    _, out, _ = command("inspect", folder)
    assert "float32" in out and "float16" not in out
    assert command("convert", folder, tmp_path / "whole", "--to", "diffusers")[0] == 0
    wanted = {name: value for file in weights_in(folder) for name, value in load_file(file).items()}
    found = load_file(tmp_path / "whole" / WEIGHTS)
    assert wanted.keys() == found.keys() and all(torch.equal(value, found[name]) for name, value in wanted.items())


def test_inspect_says_what_lies_there(command: Command, tmp_path: Path, pipeline: Path, run_folder: Path) -> None:
    _, out, _ = command("inspect", pipeline)
    for words in ("U-Net that reads a text of width 32", "KL autoencoder", "CLIP text encoder", "epsilon"):
        assert words in out
    assert "scaled-linear table of 1000" in out and "float32" in out
    _, out, _ = command("inspect", tiny_sd3(tmp_path / "sd3"))
    assert "MMDiT of 2 blocks" in out and "flow velocity" in out and "shifted by 3" in out and "T5 encoder" in out
    _, out, _ = command("inspect", tiny_flux(tmp_path / "flux"))
    assert "Flux of 2 double and 2 single blocks, with guidance embedding" in out and "shifted by the resolution" in out
    _, out, _ = command("inspect", run_folder)
    assert "checkpoint of image.recipes.edm.tiny" in out and "prediction" in out and "step          3" in out
    file = tmp_path / "lora.safetensors"
    save_file({"unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3)}, file)
    _, out, _ = command("inspect", file)
    assert "LoRA" in out and "PEFT" in out
    count = sum(value.numel() for value in load_file(pipeline / "unet" / WEIGHTS).values())
    _, out, _ = command("inspect", pipeline / "unet" / WEIGHTS)
    assert f"{count:,}" in out and "diffusers" in out


def test_half_written_files_are_never_seen(command: Command, tmp_path: Path, pipeline: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("here")
    status, _, error = command("convert", pipeline / "unet", taken, "--to", "diffusers")
    assert status == 2 and "exists already" in error
    status, _, error = command("convert", pipeline / "unet", tmp_path / "out", "--to", "original")
    assert status == 2 and ".safetensors" in error
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_written_files_are_whole_safetensors(command: Command, tmp_path: Path, pipeline: Path) -> None:
    file = tmp_path / "unet.safetensors"
    assert command("convert", pipeline / "unet", file, "--to", "original")[0] == 0
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
        assert all(opened.get_tensor(name).isfinite().all() for name in opened.keys())  # noqa: SIM118
    net, _ = load_diffusers(pipeline / "unet")
    assert len(list(net.parameters())) < len(load_file(file))
