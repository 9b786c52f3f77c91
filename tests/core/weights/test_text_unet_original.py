"""The original keys of the text U-Net: diffusers' own converters read what we write, and we read what they read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file
from torch import Tensor

from core.nn.text_unet import TextUNet
from core.nn.text_unet_plan import Plan
from core.weights.checkpoint import CheckpointError
from core.weights.text_unet import load_diffusers
from core.weights.text_unet_original import from_original, to_original
from tests.core.weights.test_text_unet import FULL
from tests.support.text_unets import CONFIGS, Inputs, reference

PREFIX = "model.diffusion_model."
HEADS: dict[str, int | tuple[int, ...]] = {
    "sd2": (2, 4),
    "depth": (2, 4),
    "sdxl": (2, 4, 4),
    "sdxl refiner": (2, 4, 4, 4),
}
GROUPS = "wide groups"  # the original always has 32
NAMES = [name for name in CONFIGS if name not in ("lcm", GROUPS)]


def prefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {PREFIX + key: value for key, value in tensors.items()}


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(tmp_path: Path, name: str) -> None:
    model, inputs = reference(CONFIGS[name]), Inputs(CONFIGS[name])
    model.save_pretrained(tmp_path / "system/unet")
    net, extras = load_diffusers(tmp_path / "system/unet")
    original = to_original(net, extras.table)

    converted = convert_ldm_unet_checkpoint(prefixed(original), dict(model.config))
    assert converted.keys() == model.state_dict().keys()
    assert all(torch.equal(converted[key], value) for key, value in model.state_dict().items())

    again, table = from_original(original, heads=HEADS.get(name))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())
    torch.testing.assert_close(inputs.ours(again, table), inputs.ask(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_diffusers_reads_the_single_file(tmp_path: Path, name: str) -> None:
    model, inputs = reference(CONFIGS[name]), Inputs(CONFIGS[name])
    model.save_pretrained(tmp_path / "system/unet")
    net, _ = load_diffusers(tmp_path / "system/unet")
    save_file(prefixed(to_original(net)), tmp_path / "single.safetensors")
    theirs = UNet2DConditionModel.from_single_file(
        str(tmp_path / "single.safetensors"), config=str(tmp_path / "system"), subfolder="unet", local_files_only=True
    )
    assert torch.equal(inputs.ask(theirs), inputs.ask(model))


@pytest.mark.parametrize("name", [name for name in FULL if name != "lcm"])
def test_full_size_files_tell_their_plan(name: str) -> None:
    plan, count, config = FULL[name]
    with torch.device("meta"):
        model, net = UNet2DConditionModel(**config), TextUNet(plan)
        table = torch.empty(1000, plan.embedded) if name == "upscaler" else None
    original = to_original(net, table)
    assert sum(value.numel() for value in original.values()) == count
    converted = convert_ldm_unet_checkpoint(prefixed(original), dict(model.config))
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert from_original(original)[0].plan == plan


def test_what_is_not_of_this_layout_is_refused() -> None:
    net = TextUNet(Plan(4, 4, (32, 64), (1, 0), 8))
    tensors = to_original(net)
    with pytest.raises(CheckpointError, match="no U-Net of Stable Diffusion"):
        from_original({"weight": torch.zeros(3)})
    for key in list(tensors)[::6]:
        with pytest.raises(CheckpointError):
            from_original({name: value for name, value in tensors.items() if name != key})
    with pytest.raises(CheckpointError, match=r"unknown extra\.weight"):
        from_original({**tensors, "extra.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="no place for LCM's guidance"):
        to_original(TextUNet(dataclasses.replace(net.plan, guidance_width=8)))
