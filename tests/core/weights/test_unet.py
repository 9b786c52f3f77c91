"""diffusers' UNet2DModel folders with every parameter randomised, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.cond import Cond
from core.nn.unet import UNet, adm_512
from core.weights.checkpoint import CheckpointError
from core.weights.unet import load_diffusers, save_diffusers
from tests.support.parameters import randomise

WEIGHTS = "diffusion_pytorch_model.safetensors"
ADM: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 6,
    "layers_per_block": 2,
    "num_class_embeds": 10,
    "block_out_channels": (32, 64),
    "attention_head_dim": 8,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,
    "upsample_type": "resnet",
    "downsample_type": "resnet",
}
CONSISTENCY_LSUN = {
    key: value
    for key, value in {**ADM, "out_channels": 3, "resnet_time_scale_shift": "default"}.items()
    if key not in ("num_class_embeds", "attn_norm_num_groups")
}
CONFIGS: dict[str, dict[str, Any]] = {
    "ddpm": {
        "sample_size": 16,
        "in_channels": 3,
        "out_channels": 3,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "downsample_padding": 0,
        "attention_head_dim": None,
        "norm_eps": 1e-6,
    },
    "three levels": {
        "sample_size": 16,
        "in_channels": 1,
        "out_channels": 1,
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
        "block_out_channels": (16, 32, 48),
        "layers_per_block": 1,
        "norm_num_groups": 8,
    },
    "adm": ADM,
    "consistency": {**ADM, "out_channels": 3},
    "consistency lsun": CONSISTENCY_LSUN,
    "unclip": {
        "sample_size": 32,
        "in_channels": 6,
        "out_channels": 3,
        "add_attention": False,
        "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
        "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "resnet_time_scale_shift": "scale_shift",
    },
}
TIME, LABELS = torch.tensor([7, 421]), torch.tensor([1, 2])


def reference(name: str) -> UNet2DModel:
    net = UNet2DModel(**CONFIGS[name])
    randomise(net)
    return net


@torch.no_grad()
def theirs(net: UNet2DModel, x: Tensor) -> Tensor:
    labels = LABELS if net.config["num_class_embeds"] else None
    output: Tensor = net(x, TIME, class_labels=labels).sample
    return output


@torch.no_grad()
def ours(net: UNet, table: Tensor | None, x: Tensor) -> Tensor:
    output: Tensor = net(x, TIME.float(), Cond(vector=None if table is None else table[LABELS]))
    return output


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back(tmp_path: Path, name: str) -> None:
    model = reference(name)
    model.save_pretrained(tmp_path / "theirs")
    net, table = load_diffusers(tmp_path / "theirs")
    config = CONFIGS[name]
    x = torch.randn(2, config["in_channels"], 16, 16)
    expected = theirs(model, x)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(net, table, x), expected, rtol=0, atol=1e-5)

    save_diffusers(tmp_path / "ours", net, table, size=config["sample_size"])
    again, loading = UNet2DModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    assert torch.equal(theirs(again, x), expected)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_variants_shards_and_old_attention_names(tmp_path: Path) -> None:
    model = reference("ddpm")
    x = torch.randn(2, 3, 16, 16)
    expected = theirs(model, x)
    model.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    net, _ = load_diffusers(tmp_path / "shards")
    torch.testing.assert_close(ours(net, None, x), expected, rtol=0, atol=1e-5)

    model.save_pretrained(tmp_path / "old")
    tensors = load_file(tmp_path / "old" / WEIGHTS)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        tensors = {key.replace(f".{new}.", f".{old}."): value for key, value in tensors.items()}
    save_file(tensors, tmp_path / "old" / WEIGHTS)
    net, _ = load_diffusers(tmp_path / "old")
    torch.testing.assert_close(ours(net, None, x), expected, rtol=0, atol=1e-5)

    model.half().save_pretrained(tmp_path / "half", variant="fp16")
    net, _ = load_diffusers(tmp_path / "half")
    rounded = {key: value.half().float() for key, value in load_diffusers(tmp_path / "shards")[0].state_dict().items()}
    assert all(torch.equal(value.float(), rounded[key]) for key, value in net.state_dict().items())


def test_every_tensor_counts(tmp_path: Path) -> None:
    """A folder with a tensor missing or too many is refused; with two swapped the network says something else."""
    model = reference("adm")
    model.save_pretrained(tmp_path)
    whole = load_file(tmp_path / WEIGHTS)
    x = torch.randn(2, 3, 16, 16)
    expected = ours(*load_diffusers(tmp_path), x)
    for key in ["class_embedding.weight", *list(whole)[::23]]:
        save_file({name: value for name, value in whole.items() if name != key}, tmp_path / WEIGHTS)
        with pytest.raises(CheckpointError, match="table of classes" if key.startswith("class") else "missing"):
            load_diffusers(tmp_path)
    save_file({**whole, "extra.weight": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="unknown"):
        load_diffusers(tmp_path)
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for key, value in whole.items():
        by_shape.setdefault(tuple(value.shape), []).append(key)
    pairs = [names[:2] for names in by_shape.values() if len(names) > 1 and "to_k.bias" not in "".join(names[:2])]
    assert len(pairs) > 8
    for first, second in pairs:
        save_file({**whole, first: whole[second], second: whole[first]}, tmp_path / WEIGHTS)
        assert (ours(*load_diffusers(tmp_path), x) - expected).abs().max() > 1e-4, (first, second)


@pytest.mark.parametrize("widths", [(1, 2), (1, 1)])
def test_a_head_count_is_a_width_where_all_attention_is_equally_wide(tmp_path: Path, widths: tuple[int, int]) -> None:
    net = UNet(3, 3, 32, widths, 1, (0, 1), heads=4)
    randomise(net)
    if len(set(widths)) > 1:
        with pytest.raises(CheckpointError, match="one width"):
            save_diffusers(tmp_path, net)
        return
    save_diffusers(tmp_path, net)
    x = torch.randn(2, 3, 8, 8)
    expected = theirs(UNet2DModel.from_pretrained(tmp_path), x)
    torch.testing.assert_close(ours(net, None, x), expected, rtol=0, atol=1e-5)


def test_what_cannot_be_expressed_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        wide = adm_512()
    with pytest.raises(CheckpointError, match="as wide as its first level"):
        save_diffusers(tmp_path, wide)
    with pytest.raises(CheckpointError, match="no row"):
        save_diffusers(tmp_path, UNet(3, 3, 32, (1, 2), 1), torch.ones(11, 128))
    with pytest.raises(CheckpointError, match="width 64"):
        save_diffusers(tmp_path, UNet(3, 3, 32, (1, 2), 1), torch.zeros(11, 64))
    assert not list(tmp_path.iterdir())
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel", "center_input_sample": true}')
    save_file({"x": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="center_input_sample"):
        load_diffusers(tmp_path)
