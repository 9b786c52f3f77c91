"""Flux's original layout: the published table of keys, and diffusers' folder as the judge of what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from torch import Tensor, nn

from core.nn.flux import Flux, flux_dev, flux_schnell
from core.weights.flux import diffusers_pairs, load_diffusers
from core.weights.flux_original import from_original, to_original
from core.weights.pairs import to_theirs
from tests.core.weights.test_flux import asked, our_output, reference, their_output

STREAM = {
    "{}_mod.lin": (6, 1),
    "{}_attn.qkv": (3, 1),
    "{}_attn.proj": (1, 1),
    "{}_mlp.0": (4, 1),
    "{}_mlp.2": (1, 4),
}


def published_shapes(
    width: int, head: int, doubles: int, singles: int, packed: int, text: int, vector: int, guided: bool
) -> dict[str, tuple[int, ...]]:
    """Every key of a file of Black Forest Labs and its shape."""
    layers = {"img_in": (width, packed), "txt_in": (width, text), "final_layer.linear": (packed, width)}
    layers["final_layer.adaLN_modulation.1"] = (2 * width, width)
    for name, features in {"time": 256, "vector": vector, **({"guidance": 256} if guided else {})}.items():
        layers[f"{name}_in.in_layer"], layers[f"{name}_in.out_layer"] = (width, features), (width, width)
    scales = []
    for i in range(doubles):
        for stream in ("img", "txt"):
            for name, (rows, columns) in STREAM.items():
                layers[f"double_blocks.{i}.{name.format(stream)}"] = (rows * width, columns * width)
            scales.append(f"double_blocks.{i}.{stream}_attn.norm")
    for i in range(singles):
        layers[f"single_blocks.{i}.modulation.lin"] = (3 * width, width)
        layers[f"single_blocks.{i}.linear1"] = (7 * width, width)
        layers[f"single_blocks.{i}.linear2"] = (width, 5 * width)
        scales.append(f"single_blocks.{i}.norm")
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in layers.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    return shapes | {f"{name}.{kind}_norm.scale": (head,) for name in scales for kind in ("query", "key")}


@pytest.mark.parametrize("guided", [True, False])
def test_there_and_back_through_diffusers_folder(tmp_path: Path, guided: bool) -> None:
    theirs = reference(guided)
    theirs.save_pretrained(tmp_path)
    tensors = to_original(load_diffusers(tmp_path))
    assert {key: tuple(value.shape) for key, value in tensors.items()} == published_shapes(
        32, 16, 2, 2, 16, 32, 24, guided
    )
    given = asked(guided)
    for file in (tensors, {f"model.diffusion_model.{key}": value for key, value in tensors.items()}):
        net = from_original(file, axes=(4, 6, 6))
        torch.testing.assert_close(our_output(net, *given), their_output(theirs, *given), rtol=0, atol=1e-5)


def test_fused_rows_and_the_last_norm_lie_as_published(tmp_path: Path) -> None:
    """linear1 is [q; k; v; perceptron]; the last norm says (shift, scale), which diffusers says the other way round."""
    theirs = reference(guided=True)
    theirs.save_pretrained(tmp_path)
    tensors, state = to_original(load_diffusers(tmp_path)), theirs.state_dict()
    block = "single_transformer_blocks.1"
    rows = [state[f"{block}.attn.to_{letter}.weight"] for letter in "qkv"] + [state[f"{block}.proj_mlp.weight"]]
    assert torch.equal(tensors["single_blocks.1.linear1.weight"], torch.cat(rows))
    assert torch.equal(tensors["single_blocks.1.norm.key_norm.scale"], state[f"{block}.attn.norm_k.weight"])
    rows = [state[f"transformer_blocks.0.attn.add_{letter}_proj.bias"] for letter in "qkv"]
    assert torch.equal(tensors["double_blocks.0.txt_attn.qkv.bias"], torch.cat(rows))
    scale, shift = state["norm_out.linear.weight"].chunk(2)
    assert torch.equal(tensors["final_layer.adaLN_modulation.1.weight"], torch.cat([shift, scale]))


@pytest.mark.parametrize("guided", [True, False])
def test_full_size_keys_and_shapes(guided: bool) -> None:
    """Our export at full size has the published names and shapes, and diffusers' own converter takes it apart."""
    with torch.device("meta"):
        net = flux_dev() if guided else flux_schnell()
    expected = published_shapes(3072, 128, 19, 38, 64, 4096, 768, guided)
    assert {key: tuple(value.shape) for key, value in to_original(net).items()} == expected


def test_diffusers_own_converter_reads_our_export() -> None:
    """It only knows the width 3072; rows are all that it moves, so every matrix has one column of counted rows."""
    with torch.device("meta"):
        net = Flux(doubles=2, singles=2)
    for index, (name, parameter) in enumerate(list(net.named_parameters())):
        path, _, leaf = name.rpartition(".")
        rows = torch.arange(len(parameter), dtype=torch.float32) + 100_000 * index
        setattr(net.get_submodule(path), leaf, nn.Parameter(rows.view(-1, 1) if parameter.ndim == 2 else rows))
    for i in range(2):
        for stream in ("doubles.{}.image", "doubles.{}.text", "singles.{}"):
            layer = net.get_submodule(f"{stream.format(i)}.attention")
            layer.scale = nn.Parameter(torch.randn(2, 128))
    converted = convert_flux_transformer_checkpoint_to_diffusers(to_original(net))
    state = {name: value.detach() for name, value in net.state_dict().items()}
    expected = to_theirs(diffusers_pairs(2, 2), state)
    assert converted.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(converted[name], value)] == []


def test_foreign_files_are_refused() -> None:
    net = Flux(4, 2, 1, 1, 8, 8, (2, 4, 4))
    tensors: dict[str, Tensor] = to_original(net)
    with pytest.raises(ValueError, match="img_in"):
        from_original({key: value for key, value in tensors.items() if key != "img_in.weight"}, (2, 4, 4))
    with pytest.raises(ValueError, match=r"missing.*linear1"):
        from_original({k: v for k, v in tensors.items() if k != "single_blocks.0.linear1.bias"}, (2, 4, 4))
    with pytest.raises(ValueError, match="extra"):
        from_original(tensors | {"extra": torch.zeros(1)}, (2, 4, 4))
    with pytest.raises(ValueError, match="rotary axes"):
        from_original(tensors)
    with pytest.raises(ValueError, match="our own format"):
        to_original(Flux(4, 2, 1, 1, 8, 0, (2, 4, 4)))
