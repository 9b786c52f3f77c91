"""diffusers' ControlNetModel folders with every parameter randomised, there and back, and steering a U-Net."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from torch import Tensor

from core.nn.controlnet import ControlCond, ControlledUNet, ControlNet
from core.nn.text_unet_plan import sd1, sdxl
from core.weights import text_unet
from core.weights.checkpoint import CheckpointError
from core.weights.controlnet import load_diffusers, pairs, save_diffusers
from core.weights.pairs import to_ours
from tests.core.weights.test_text_unet import FULL
from tests.support.parameters import randomise
from tests.support.text_unets import CONFIGS, TIME, Inputs, reference

HINTS = (8, 12, 16, 24)


def control_config(unet: dict[str, Any]) -> dict[str, Any]:
    left_out = ("sample_size", "out_channels", "up_block_types")
    return {key: value for key, value in unet.items() if key not in left_out}


@pytest.mark.parametrize("name", ["wide groups", "sd2", "sdxl"])
@torch.no_grad()
def test_there_and_back(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    config = CONFIGS[name]
    unet, inputs = reference(config), Inputs(config)
    control = ControlNetModel(**control_config(config), conditioning_embedding_out_channels=HINTS)
    randomise(control)
    unet.save_pretrained(tmp_path / "unet")
    control.save_pretrained(tmp_path / "theirs")
    ours, _ = text_unet.load_diffusers(tmp_path / "unet")
    net, extras = load_diffusers(tmp_path / "theirs")
    picture = torch.rand(2, 3, 128, 128)

    def steered(model: ControlNetModel) -> tuple[list[Tensor], Tensor]:
        added = None if inputs.scalars is None else {"text_embeds": inputs.pooled, "time_ids": inputs.scalars}
        maps, middle = model(inputs.x, TIME, inputs.tokens, picture, 0.7, added_cond_kwargs=added, return_dict=False)
        output = unet(
            inputs.x,
            TIME,
            inputs.tokens,
            added_cond_kwargs=added,
            down_block_additional_residuals=maps,
            mid_block_additional_residual=middle,
        ).sample
        return [*maps, middle], output

    maps, expected = steered(control)
    assert (expected - inputs.ask(unet)).abs().max() > 0.1
    plain = inputs.cond()
    cond = ControlCond(tokens=plain.tokens, vector=plain.vector, control=picture)
    for mine, wanted in zip(net(inputs.x, TIME.float(), cond), maps, strict=True):
        torch.testing.assert_close(0.7 * mine, wanted, rtol=0, atol=1e-5)
    output = ControlledUNet(ours, [net], [0.7])(inputs.x, TIME.float(), cond)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)

    save_diffusers(tmp_path / "ours", net, extras)
    again, loading = ControlNetModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    assert torch.equal(steered(again)[1], expected)
    written, known = json.loads((tmp_path / "ours/config.json").read_text()), dict(control.config)
    for key, value in written.items():
        if key != "_class_name":
            assert (list(known[key]) if isinstance(known[key], tuple) else known[key]) == value, key


@pytest.mark.parametrize(("name", "count"), [("sd1", 361_279_120), ("sdxl", 1_251_014_160)])
def test_full_size_networks_are_a_bijection(name: str, count: int) -> None:
    plan = {"sd1": sd1, "sdxl": sdxl}[name]()
    with torch.device("meta"):
        theirs, net = ControlNetModel(**control_config(FULL[name][2])).state_dict(), ControlNet(plan)
    assert sum(value.numel() for value in theirs.values()) == count
    state = to_ours(pairs(net), theirs, name)
    assert {key: value.shape for key, value in state.items()} == {k: v.shape for k, v in net.state_dict().items()}


def test_what_cannot_be_expressed_is_refused(tmp_path: Path) -> None:
    config = control_config(CONFIGS["sd1"])
    ControlNetModel(**config, conditioning_embedding_out_channels=HINTS).save_pretrained(tmp_path)
    net, _ = load_diffusers(tmp_path)
    written_config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"global_pool_conditions": True}, {"controlnet_conditioning_channel_order": "bgr"}):
        (tmp_path / "config.json").write_text(json.dumps(written_config | change))
        with pytest.raises(CheckpointError, match=next(iter(change))):
            load_diffusers(tmp_path)
    with pytest.raises(CheckpointError, match="has no guidance embedding"):
        save_diffusers(tmp_path, ControlNet(dataclasses.replace(net.plan, guidance_width=8)))
