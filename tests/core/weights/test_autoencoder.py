"""diffusers' and the original's autoencoders: the same moments and pictures from the same weights, both ways."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from core.autoencoder import KLAutoencoder, Plan
from core.autoencoder.net import sd3_vae, sd_vae
from core.weights import autoencoder as layout
from core.weights import autoencoder_original as original
from core.weights.checkpoint import CheckpointError
from tests.support.parameters import randomise

VAE = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(32, 64),
    layers_per_block=2,
    latent_channels=4,
    norm_num_groups=8,
    sample_size=32,
)
SD3 = VAE | dict(
    latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
)
CONFIGS = {
    "sd": VAE | dict(scaling_factor=0.18215),
    "sdxl": VAE | dict(scaling_factor=0.13025, force_upcast=True, latents_mean=[0.1] * 4, latents_std=[2.0] * 4),
    "sd3": SD3,
    "flux": SD3 | dict(scaling_factor=0.3611, shift_factor=0.1159),
}
VQ = {name: value for name, value in VAE.items() if name not in ("latent_channels", "layers_per_block")} | dict(
    latent_channels=3, layers_per_block=1, num_vq_embeddings=64, vq_embed_dim=3
)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[AutoencoderKL, Path]:
    torch.manual_seed(0)
    model = AutoencoderKL(**CONFIGS[request.param]).eval()
    randomise(model, seed=0)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder, max_shard_size="1MB" if request.param == "sdxl" else "1GB")
    return model, folder


@torch.no_grad()
def test_the_same_moments_and_pictures(peer: tuple[AutoencoderKL, Path]) -> None:
    model, folder = peer
    ours, latent_config = layout.load_diffusers(folder)
    x, z = torch.randn(2, 3, 32, 48), torch.randn(2, model.config.latent_channels, 16, 24)
    assert (ours.moments(x) - model.encode(x).latent_dist.parameters).abs().max() <= 1e-5
    assert (ours.encode(x).logvar - model.encode(x).latent_dist.logvar).abs().max() <= 1e-5
    assert (ours.decode(z) - model.decode(z).sample).abs().max() <= 1e-5
    assert (latent_config.scale, latent_config.shift) == (model.config.scaling_factor, model.config.shift_factor or 0.0)


@torch.no_grad()
def test_writing(peer: tuple[AutoencoderKL, Path], tmp_path: Path) -> None:
    model, folder = peer
    ours, latent_config = layout.load_diffusers(folder)
    layout.save_diffusers(tmp_path, ours, latent_config)
    again, report = AutoencoderKL.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(again.encode(x).latent_dist.parameters, model.encode(x).latent_dist.parameters)
    for key in ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "use_quant_conv", "latent_channels"):
        assert again.config[key] == model.config[key], key


@torch.no_grad()
def test_the_original_keys_both_ways(peer: tuple[AutoencoderKL, Path], tmp_path: Path) -> None:
    model, folder = peer
    ours, _ = layout.load_diffusers(folder)
    tensors = original.to_original(ours)
    read = convert_ldm_vae_checkpoint(copy.copy(tensors), dict(model.config))
    theirs = model.state_dict()
    assert read.keys() == theirs.keys()
    assert all(torch.equal(value.reshape(theirs[name].shape), theirs[name]) for name, value in read.items())
    again = original.from_original(tensors | {"loss.logvar": torch.zeros(())}, groups=8)
    assert again.plan == dataclasses.replace(ours.plan)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in again.state_dict().items())


def test_older_names_of_attention_are_read(peer: tuple[AutoencoderKL, Path], tmp_path: Path) -> None:
    model, _ = peer
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in model.state_dict().items():
        for new, former in old.items():
            name = name.replace(f".{new}.", f".{former}.")
        state[name] = value[..., None, None] if ".query.weight" in name else value
    flat = layout.flat(state)
    assert flat.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in flat.items())


@torch.no_grad()
def test_every_tensor_counts(peer: tuple[AutoencoderKL, Path]) -> None:
    model, folder = peer
    ours, _ = layout.load_diffusers(folder)
    state = dict(model.state_dict())
    missing = dict(state)
    missing.pop("decoder.mid_block.attentions.0.to_k.weight")
    with pytest.raises(CheckpointError, match=r"missing decoder\.mid_block\.attentions\.0\.to_k\.weight"):
        layout.to_ours(layout.pairs(ours), missing, "it")
    x = torch.randn(1, 3, 16, 16)
    before = ours(x)[0]
    for name in ("encoder.down.1.blocks.0.norm2.bias", "decoder.middle.attention.qkv.weight"):
        parameter = ours.get_parameter(name)
        kept = parameter.data
        parameter.data = kept.flip(0)
        assert (ours(x)[0] - before).abs().max() > 1e-4, name
        parameter.data = kept


@torch.no_grad()
def test_vq_both_ways(tmp_path: Path) -> None:
    model = VQModel(**VQ).eval()
    randomise(model, seed=0)
    model.quantize.embedding.weight.data = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(tmp_path / "theirs")
    ours, scale = layout.load_vq_diffusers(tmp_path / "theirs")
    x = torch.randn(2, 3, 16, 24)
    assert (ours.encode(x) - model.encode(x).latents).abs().max() <= 1e-5
    assert (ours(x)[0] - model(x).sample).abs().max() <= 1e-5
    layout.save_vq_diffusers(tmp_path / "ours", ours, scale)
    again, report = VQModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(again(x).sample, model(x).sample)
    back = original.vq_from_original(original.to_original(ours), groups=8)
    assert torch.equal(back(x)[0], ours(x)[0])


@pytest.mark.parametrize(("plan", "count", "config"), [(sd_vae(), 83_653_863, {}), (sd3_vae(), 83_819_683, SD3)])
def test_full_size(plan: Plan, count: int, config: dict[str, object]) -> None:
    with torch.device("meta"):
        ours = KLAutoencoder(plan)
        theirs = AutoencoderKL(
            **(dict(VAE) | config)
            | dict(
                block_out_channels=(128, 256, 512, 512),
                norm_num_groups=32,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            )
        )
    assert sum(p.numel() for p in ours.parameters()) == count
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {
        name: value.shape for name, value in layout.to_theirs(layout.pairs(ours), ours.state_dict()).items()
    } == shapes


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no original autoencoder"):
        original.from_original({"conv_in.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="no VQ autoencoder"):
        original.vq_from_original({})
    with pytest.raises(CheckpointError, match="2-d"):
        layout.save_diffusers(tmp_path, KLAutoencoder(dataclasses.replace(TINY, dims=1)))


TINY = dataclasses.replace(sd_vae(), widths=(8, 16), groups=4)
