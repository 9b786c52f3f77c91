"""LoRA files: random LoRAs on every layer of diffusers' networks, merged by hand, against ours beside the weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_kohya_flux_lora_to_diffusers,
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from core.nn.dit import DiT, Patches
from core.nn.flux import Flux
from core.nn.lora import Addition, AttachedLoRAs, LoRA, layers_of
from core.weights import flux as flux_layout
from core.weights import mmdit as mmdit_layout
from core.weights import text_unet as unet_layout
from core.weights.checkpoint import CheckpointError
from core.weights.lora import load, load_text, names_of, save_diffusers, save_kohya
from tests.core.weights import test_flux, test_mmdit
from tests.support import text_unets

Output = Callable[[], Tensor]


class Case:
    """A network of diffusers and ours of the same weights, each with a way to ask it."""

    def __init__(self, kind: str, folder: Path) -> None:
        torch.manual_seed(0)
        self.prefix = "unet" if kind in text_unets.CONFIGS else "transformer"
        self.config: dict[str, Any] = {}
        if kind in text_unets.CONFIGS:
            self.config = text_unets.CONFIGS[kind]
            inputs = text_unets.Inputs(self.config)
            self.theirs: nn.Module = text_unets.reference(self.config)
            self.theirs.save_pretrained(folder)
            net, extras = unet_layout.load_diffusers(folder)
            self.net: nn.Module = net
            self.their_words: Output = lambda: inputs.ask(self.theirs)
            self.our_words: Output = lambda: inputs.ours(net, extras.table)
        elif kind == "flux":
            given = test_flux.asked(True)
            self.theirs = model = test_flux.reference(True)
            model.save_pretrained(folder)
            self.net = flux = flux_layout.load_diffusers(folder)
            self.their_words = lambda: test_flux.their_output(model, *given)
            self.our_words = lambda: test_flux.our_output(flux, *given)
        else:
            asked_of = test_mmdit.asked(kind)
            self.theirs = transformer = test_mmdit.reference(kind)
            transformer.save_pretrained(folder)
            self.net = mmdit = mmdit_layout.load_diffusers(folder)
            self.their_words = lambda: test_mmdit.their_output(transformer, *asked_of)
            self.our_words = lambda: test_mmdit.our_output(mmdit, *asked_of)

    def attached(self, lora: LoRA) -> Tensor:
        """What ours says with a LoRA."""
        attached = AttachedLoRAs(self.net, [lora])
        output = self.our_words()
        attached.detach()
        return output

    def merged(self, factors: Mapping[str, tuple[Tensor, Tensor, float]]) -> Tensor:
        """What theirs says when W becomes W + scale B A, and leaves it as it was."""
        layers = {name: layer for name, layer in self.theirs.named_modules() if name in factors}
        assert layers.keys() == factors.keys()
        before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        with torch.no_grad():
            for name, (down, up, scale) in factors.items():
                layers[name].weight += scale * (up.flatten(1) @ down.flatten(1)).view_as(layers[name].weight)
            output = self.their_words()
            for name, layer in layers.items():
                layer.weight.copy_(before[name])
        return output


KINDS = ["sd1", "sd2", "sdxl", "sdxl refiner", "sd3", "sd35_medium", "flux"]


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("net"))


def drawn(net: nn.Module, only: str = "", seed: int = 5) -> dict[str, tuple[Tensor, Tensor, float]]:
    """A random LoRA on each layer of a foreign network (on those that match ``only``): down, up, scale."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for place, (name, layer) in enumerate(layers_of(net).items()):
        if re.search(only, name):
            rank, shape = 2 + place % 3, layer.weight.shape
            down = 0.08 * torch.randn(rank, *shape[1:], generator=generator)
            up = 0.08 * torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator)
            found[name] = down, up, (0.5, 1.0, 2.0)[place % 3]
    return found


def peft(factors: Mapping[str, tuple[Tensor, Tensor, float]], prefix: str, stem: str = "") -> dict[str, Tensor]:
    """The tensors of a PEFT file, with alpha beside each layer."""
    tensors = {}
    for name, (down, up, scale) in factors.items():
        tensors[f"{prefix}.{name}.lora_A{stem}.weight"] = down
        tensors[f"{prefix}.{name}.lora_B{stem}.weight"] = up
        tensors[f"{prefix}.{name}.alpha"] = torch.tensor(scale * len(down))
    return tensors


def read_back(path: Path, prefix: str) -> dict[str, tuple[Tensor, Tensor, float]]:
    """What a reader of diffusers' names that knows no alpha finds in a file."""
    tensors, found = load_file(path), {}
    for key, value in tensors.items():
        name = key.removeprefix(f"{prefix}.").removesuffix(".lora_A.weight")
        if key.endswith("lora_A.weight"):
            found[name] = value, tensors[key.replace("lora_A", "lora_B")], 1.0
    assert len(tensors) == 2 * len(found)
    return found


def test_a_lora_on_every_layer_there_and_back(case: Case, tmp_path: Path) -> None:
    factors, path = drawn(case.theirs), tmp_path / "lora.safetensors"
    wanted = case.merged(factors)
    assert (wanted - case.their_words()).abs().max() > 0.02
    save_file(peft(factors, case.prefix), path)
    lora = load(path, case.net)
    torch.testing.assert_close(case.attached(lora), wanted, rtol=0, atol=2e-5)  # the order of sums is not ours

    save_diffusers(tmp_path / "ours.safetensors", case.net, lora)
    torch.testing.assert_close(
        case.merged(read_back(tmp_path / "ours.safetensors", case.prefix)), wanted, rtol=0, atol=1e-5
    )
    same = case.attached(load(tmp_path / "ours.safetensors", case.net))
    torch.testing.assert_close(same, case.attached(lora), rtol=0, atol=1e-6)

    save_kohya(tmp_path / "kohya.safetensors", case.net, lora)
    assert all(key.startswith("lora_unet_") for key in load_file(tmp_path / "kohya.safetensors"))
    torch.testing.assert_close(
        case.attached(load(tmp_path / "kohya.safetensors", case.net)), case.attached(lora), rtol=0, atol=1e-5
    )


def test_a_new_lora_of_ours_means_the_same_to_diffusers(case: Case, tmp_path: Path) -> None:
    """One addition to all rows of a fused projection becomes one to each of its parts."""
    lora = LoRA.of(case.net, 3, alpha=6.0)
    for _, parts in lora.items():
        nn.init.normal_(parts[0].up, std=0.1)
    save_diffusers(tmp_path / "ours.safetensors", case.net, lora)
    factors = read_back(tmp_path / "ours.safetensors", case.prefix)
    assert any(name.endswith("to_q") for name in factors) and not any("qkv" in name for name in factors)
    torch.testing.assert_close(case.merged(factors), case.attached(lora), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_diffusers_own_converter_reads_our_kohya_files(kind: str, tmp_path: Path) -> None:
    case, path = Case(kind, tmp_path / "net"), tmp_path / "kohya.safetensors"
    save_file(peft(drawn(case.theirs, "transformer_blocks"), case.prefix), tmp_path / "lora.safetensors")
    lora = load(tmp_path / "lora.safetensors", case.net)
    save_kohya(path, case.net, lora)
    tensors = load_file(path)
    count = len(tensors) // 3
    if kind == "sdxl":
        assert all("put_blocks" in key or "middle_block" in key for key in tensors)
        config = type("Config", (), {"layers_per_block": case.config["layers_per_block"]})
        tensors = _maybe_map_sgm_blocks_to_diffusers(tensors, config)
    converted, alphas = _convert_non_diffusers_lora_to_diffusers(tensors)
    found = {}
    for key, down in converted.items():
        if ".down." in key or "lora_A" in key:
            up = converted[key.replace(".down.", ".up.").replace("lora_A", "lora_B")]
            name = re.sub(r"\.lora(_A|\.down|_linear_layer\.down)\.weight", "", key.removeprefix("unet."))
            name = re.sub(r"\.processor\.(\w+)_lora\.down\.weight", r".\1", name)
            name = f"{name}.0" if name.endswith("to_out") else name
            found[name] = (
                down,
                up,
                float(alphas[f"unet.{key.removeprefix('unet.').split('.lora')[0]}.alpha"]) / len(down),
            )
    assert len(found) == count
    torch.testing.assert_close(case.merged(found), case.attached(lora), rtol=0, atol=1e-5)


def test_flux_files_with_the_original_names(tmp_path: Path) -> None:
    """kohya's fused ``linear1`` is two layers of ours and four of diffusers'; also with dots, as ComfyUI writes."""
    case = Case("flux", tmp_path / "net")
    assert isinstance(case.theirs, FluxTransformer2DModel)
    width, generator = 32, torch.Generator().manual_seed(3)
    down, up = torch.randn(4, width, generator=generator), 0.1 * torch.randn(7 * width, 4, generator=generator)
    block = "single_transformer_blocks.1"
    wanted = case.merged(
        {
            f"{block}.{name}": (down, part, 0.5)
            for name, part in zip(
                ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), up.split([width, width, width, 4 * width])
            )
        }
    )
    stems = {"lora_unet_single_blocks_1_linear1": "lora_{}", "diffusion_model.single_blocks.1.linear1": "lora_{}"}
    for stem, role in stems.items():
        path = tmp_path / f"{stem}.safetensors"
        tensors = {role.format("down"): down, role.format("up"): up}
        save_file(
            {f"{stem}.{key}.weight": value for key, value in tensors.items()} | {f"{stem}.alpha": torch.tensor(2.0)},
            path,
        )
        lora = load(path, case.net)
        torch.testing.assert_close(case.attached(lora), wanted, rtol=0, atol=1e-5)
    save_kohya(tmp_path / "again.safetensors", case.net, lora)
    names = {key.split(".")[0] for key in load_file(tmp_path / "again.safetensors")}
    assert names == {"lora_unet_single_blocks_1_linear1"}
    torch.testing.assert_close(case.attached(load(tmp_path / "again.safetensors", case.net)), wanted, rtol=0, atol=1e-5)


def test_diffusers_own_converter_reads_our_kohya_files_of_flux(tmp_path: Path) -> None:
    """Their converter knows the published widths only, so the network has these, and no weights."""
    with torch.device("meta"):
        net = Flux(doubles=1, singles=1)
    generator = torch.Generator().manual_seed(2)
    shapes = {name: layer.weight.shape for name, layer in layers_of(net).items() if name.startswith(("do", "si"))}
    additions = {
        name: [
            Addition(torch.randn(1, shape[1], generator=generator), torch.randn(shape[0], 1, generator=generator), 0.5)
        ]
        for name, shape in shapes.items()
    }
    lora = LoRA(additions)
    save_kohya(tmp_path / "kohya.safetensors", net, lora)
    save_diffusers(tmp_path / "ours.safetensors", net, lora)
    theirs = _convert_kohya_flux_lora_to_diffusers(load_file(tmp_path / "kohya.safetensors"))
    ours = load_file(tmp_path / "ours.safetensors")
    assert theirs.keys() == ours.keys() and len(ours) == 40
    for name in (key for key in ours if "lora_A" in key):
        width = ours[name].shape[1]
        x, up = torch.randn(width, generator=generator) / width, name.replace("lora_A", "lora_B")
        wanted, found = theirs[up] @ (theirs[name] @ x), ours[up] @ (ours[name] @ x)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_old_names_adapter_names_and_a_convolution_between(tmp_path: Path) -> None:
    case, path = Case("sd1", tmp_path / "net"), tmp_path / "old.safetensors"
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    factors = drawn(case.theirs, re.escape(block))
    wanted = case.merged({name: (down, up, 1.0) for name, (down, up, _) in factors.items()})
    tensors = {}
    for name, (down, up, _) in factors.items():
        stem = name.replace(".attn1.", ".attn1.processor.").removesuffix(".0") + "_lora"
        tensors |= {f"unet.{stem}.down.weight": down, f"unet.{stem}.up.weight": up}
    save_file(tensors, path)
    torch.testing.assert_close(case.attached(load(path, case.net)), wanted, rtol=0, atol=1e-5)
    named = peft({name: (down, up, 1.0) for name, (down, up, _) in factors.items()}, "base_model.model", ".default")
    save_file({key: value for key, value in named.items() if "alpha" not in key}, path)
    torch.testing.assert_close(case.attached(load(path, case.net)), wanted, rtol=0, atol=1e-5)

    mid, down, up = torch.randn(3, 2, 3, 3), torch.randn(2, 4, 1, 1), 0.1 * torch.randn(32, 3, 1, 1)
    product = torch.nn.functional.conv2d(torch.eye(4).view(4, 4, 1, 1), down)
    kernel = torch.einsum("or,rihw,ic->ochw", up.flatten(1), mid, product.flatten(1).t())
    save_file(
        {
            f"lora_unet_conv_in.lora_{factor}.weight": value
            for factor, value in (("mid", mid), ("down", down), ("up", up))
        },
        path,
    )
    (_, (part,)) = next(iter(load(path, case.net).items()))
    torch.testing.assert_close(part.matrix() * part.rank / float(part.alpha), kernel, rtol=0, atol=1e-5)


def test_alpha_from_descriptions(tmp_path: Path) -> None:
    case, path = Case("sd1", tmp_path / "net"), tmp_path / "lora.safetensors"
    tensors = {key: value for key, value in peft(drawn(case.theirs, "attn2"), "unet").items() if "alpha" not in key}
    first = next(iter(tensors)).removeprefix("unet.").removesuffix(".lora_A.weight")
    words = {"unet.r": 4, "unet.lora_alpha": 12, "unet.alpha_pattern": {first: 5}, "unet.use_rslora": False}
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(words)})
    alphas = [float(part.alpha) for _, parts in load(path, case.net).items() for part in parts]
    assert sorted(set(alphas)) == [5.0, 12.0] and alphas.count(5.0) == 1
    save_file(tensors, path)
    assert all(float(part.alpha) == part.rank for _, parts in load(path, case.net).items() for part in parts)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 3, "use_rslora": True}))
    for _, parts in load(path, case.net).items():
        for part in parts:
            assert float(part.alpha) == pytest.approx(3 * part.rank**0.5)


@pytest.mark.parametrize("prefix", ["text_encoder.text_model.", "lora_te1_text_model_", "text_encoder."])
def test_text_encoders(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    encoder, places = CLIPTextModel(config).eval(), torch.arange(7)[None]
    factors, tensors = drawn(encoder), {}
    for name, (down, up, _) in factors.items():
        stem = prefix + (name.replace(".", "_") if prefix.startswith("lora") else name).removeprefix("text_model.")
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    save_file(tensors, tmp_path / "lora.safetensors")
    lora = load_text(tmp_path / "lora.safetensors", encoder)
    assert lora is not None and load_text(tmp_path / "lora.safetensors", encoder, "text_encoder_2") is None
    with torch.no_grad():
        before = encoder(places).last_hidden_state
        attached = AttachedLoRAs(encoder, [lora])
        extras = encoder(places).last_hidden_state
        attached.detach()
        for name, (down, up, _) in factors.items():
            encoder.get_submodule(name).weight += up @ down
        wanted = encoder(places).last_hidden_state
    assert (wanted - before).abs().max() > 0.01
    torch.testing.assert_close(extras, wanted, rtol=0, atol=1e-5)
    with pytest.raises(CheckpointError, match="only of text encoders"):
        load(tmp_path / "lora.safetensors", encoder)


def test_networks_without_a_published_layout_keep_their_own_names(tmp_path: Path) -> None:
    net = DiT(Patches((8, 8), 4, 32, 2), 2, 4)
    lora = LoRA.of(net, 2, alpha=1.0)
    for _, parts in lora.items():
        nn.init.normal_(parts[0].up)
    assert "blocks.0.qkv" in names_of(net)
    save_kohya(tmp_path / "lora.safetensors", net, lora)
    again = dict(load(tmp_path / "lora.safetensors", net).items())
    for name, (part,) in lora.items():
        torch.testing.assert_close(again[name][0].matrix(), part.matrix(), rtol=0, atol=1e-6)


def test_what_is_no_plain_lora_of_this_network_is_refused(tmp_path: Path) -> None:
    case, path = Case("sd1", tmp_path / "net"), tmp_path / "lora.safetensors"
    whole = peft(drawn(case.theirs, "attn1.to_q"), "unet")
    key = next(iter(whole)).removesuffix(".lora_A.weight")
    for change, words in (
        ({f"{key}.lora_magnitude_vector": torch.ones(2)}, "no plain LoRA"),
        ({"lora_unet_conv_in.hada_w1_a": torch.ones(2)}, "no plain LoRA"),
        (
            {"unet.elsewhere.lora_A.weight": torch.ones(2, 2), "unet.elsewhere.lora_B.weight": torch.ones(2, 2)},
            "elsewhere",
        ),
        ({f"{key}.lora_A.weight": torch.ones(2, 7)}, "another network"),
    ):
        save_file(whole | change, path)
        with pytest.raises(CheckpointError, match=words):
            load(path, case.net)
    save_file({name: value for name, value in whole.items() if name != f"{key}.lora_B.weight"}, path)
    with pytest.raises(CheckpointError, match="only a half"):
        load(path, case.net)
