"""diffusers' UNet2DConditionModel folders with every parameter randomised, there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from core.nn.text_unet import TextUNet
from core.nn.text_unet_plan import Plan, lcm_sd1, sd1, sd1_inpainting, sd2, sd2_depth, sdxl, sdxl_refiner, upscaler
from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import to_ours
from core.weights.text_unet import UNetExtras, load_diffusers, pairs, save_diffusers
from tests.support.parameters import randomise
from tests.support.text_unets import CONFIGS, SD1, SDXL, TIME, Inputs, reference

# Biases that are only ever added to each other: which is which changes nothing.
SUMMED = ({"conv1", "time_emb_proj"}, {"conv2", "conv_shortcut"})
WEIGHTS = "diffusion_pytorch_model.safetensors"
SD = {
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
SD_2 = {
    **SD,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
FULL: dict[str, tuple[Plan, int, dict[str, Any]]] = {
    "sd1": (sd1(), 859_520_964, SD),
    "inpainting": (sd1_inpainting(), 859_535_364, {**SD, "in_channels": 9}),
    "lcm": (lcm_sd1(), 859_602_884, {**SD, "time_cond_proj_dim": 256}),
    "sd2": (sd2(), 865_910_724, SD_2),
    "depth": (sd2_depth(), 865_913_604, {**SD_2, "in_channels": 5}),
    "upscaler": (
        upscaler(),
        473_398_020,
        {
            **SD_2,
            "in_channels": 7,
            "block_out_channels": (256, 512, 512, 1024),
            "attention_head_dim": 8,
            "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
            "up_block_types": (*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
            "only_cross_attention": (True, True, True, False),
            "num_class_embeds": 1000,
        },
    ),
    "sdxl": (
        sdxl(),
        2_567_463_684,
        {
            **SDXL,
            "block_out_channels": (320, 640, 1280),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
    "refiner": (
        sdxl_refiner(),
        2_259_526_660,
        {
            **CONFIGS["sdxl refiner"],
            "block_out_channels": (384, 768, 1536, 1536),
            "attention_head_dim": (6, 12, 24, 24),
            "transformer_layers_per_block": 4,
            "cross_attention_dim": 1280,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2560,
        },
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back(tmp_path: Path, name: str) -> None:
    model, inputs = reference(CONFIGS[name]), Inputs(CONFIGS[name])
    model.save_pretrained(tmp_path / "theirs")
    net, extras = load_diffusers(tmp_path / "theirs")
    expected = inputs.ask(model)
    assert expected.std() > 0.1
    torch.testing.assert_close(inputs.ours(net, extras.table), expected, rtol=0, atol=1e-5)

    save_diffusers(tmp_path / "ours", net, extras)
    again, loading = UNet2DConditionModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    assert torch.equal(inputs.ask(again), expected)
    written, config = json.loads((tmp_path / "ours/config.json").read_text()), dict(model.config)
    for key, value in written.items():
        if key != "_class_name":
            known = config[key]
            assert (list(known) if isinstance(known, tuple) else known) == value, key


def test_grids_that_do_not_halve(tmp_path: Path) -> None:
    model, inputs = reference(SDXL), Inputs(SDXL, (13, 10))
    model.save_pretrained(tmp_path)
    net, _ = load_diffusers(tmp_path)
    torch.testing.assert_close(inputs.ours(net), inputs.ask(model), rtol=0, atol=1e-5)


def test_masked_tokens(tmp_path: Path) -> None:
    model, inputs = reference(SD1), Inputs(SD1)
    model.save_pretrained(tmp_path)
    net, _ = load_diffusers(tmp_path)
    mask = torch.arange(11)[None] < torch.tensor([[4], [11]])
    with torch.no_grad():
        expected = model(inputs.x, TIME, inputs.tokens, encoder_attention_mask=mask).sample
        cond = inputs.cond()
        output = net(inputs.x, TIME.float(), type(cond)(tokens=cond.tokens, mask=mask))
    assert (expected - inputs.ask(model)).abs().max() > 1e-3
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


def test_shards_and_a_variant_in_half_precision(tmp_path: Path) -> None:
    model, inputs = reference(SD1), Inputs(SD1)
    expected = inputs.ask(model)
    model.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    whole, _ = load_diffusers(tmp_path / "shards")
    torch.testing.assert_close(inputs.ours(whole), expected, rtol=0, atol=1e-5)

    model.half().save_pretrained(tmp_path / "half", variant="fp16")
    net, _ = load_diffusers(tmp_path / "half")
    rounded = whole.state_dict()
    assert all(value.dtype == torch.float16 for value in net.state_dict().values())
    assert all(torch.equal(value, rounded[key].half()) for key, value in net.state_dict().items())


def test_every_tensor_counts(tmp_path: Path) -> None:
    """Any tensor missing or too many is refused; any two swapped and the network says something else."""
    config = {**CONFIGS["wide groups"], "layers_per_block": 1}
    model, inputs = reference(config), Inputs(config, (4, 4))
    model.save_pretrained(tmp_path)
    net, _ = load_diffusers(tmp_path)
    whole, expected = load_file(tmp_path / WEIGHTS), inputs.ours(net)
    for key in whole:
        with pytest.raises(CheckpointError, match="missing"):
            to_ours(pairs(net), {name: value for name, value in whole.items() if name != key}, "it")
    save_file({**whole, "extra.weight": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"unknown extra\.weight"):
        load_diffusers(tmp_path)
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for key, value in whole.items():
        by_shape.setdefault(tuple(value.shape), []).append(key)
    swaps = [pair for names in by_shape.values() for pair in zip(names, names[1:])]
    assert len(swaps) > 100
    for first, second in swaps:
        if {first.split(".")[-2], second.split(".")[-2]} in SUMMED:
            continue
        swapped = {**whole, first: whole[second], second: whole[first]}
        fill(net, to_ours(pairs(net), swapped, "it"), tmp_path)
        assert (inputs.ours(net) - expected).abs().max() > 3e-5, (first, second)


@pytest.mark.parametrize("name", FULL)
def test_full_size_networks_are_a_bijection(name: str) -> None:
    plan, count, config = FULL[name]
    with torch.device("meta"):
        theirs, net = UNet2DConditionModel(**config).state_dict(), TextUNet(plan)
    assert sum(value.numel() for value in theirs.values()) == count
    theirs.pop("class_embedding.weight", None)
    state = to_ours(pairs(net), theirs, name)  # raises where a tensor of theirs is left over or missing
    assert {key: value.shape for key, value in state.items()} == {k: v.shape for k, v in net.state_dict().items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"act_fn": "gelu"}, "act_fn"),
        ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"addition_embed_type": "image"}, "adds image"),
        ({"layers_per_block": [1, 2]}, "the same at every level"),
        ({"transformer_layers_per_block": [[1, 2], 1]}, "one a level"),
        ({"down_block_types": ["CrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"]}, "has blocks"),
        ({"num_class_embeds": 7}, "table of classes None"),
    ],
)
def test_what_this_network_does_not_have_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    reference(SD1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=words):
        load_diffusers(tmp_path)


def test_what_diffusers_cannot_express_is_refused(tmp_path: Path) -> None:
    small = Plan(4, 4, (32, 32), (1, 1), 8, heads=2)
    wrong = [
        (Plan(4, 4, (32, 32), (1, 1), 8, heads=2, dims=1), UNetExtras(), "2-d"),
        (Plan(4, 4, (32, 32), (1, 1), 8, heads=2, middle_depth=3), UNetExtras(), "middle"),
        (Plan(4, 4, (32, 32), (1, 1), 8, heads=2, vector_width=6), UNetExtras(), "sinusoids"),
        (small, UNetExtras(table=torch.zeros(3, 5)), "table of width 5"),
    ]
    for plan, extras, words in wrong:
        with pytest.raises(CheckpointError, match=words):
            save_diffusers(tmp_path, TextUNet(plan), extras)
    net = TextUNet(small)
    randomise(net)
    save_diffusers(tmp_path, net)
    again, _ = load_diffusers(tmp_path)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())
