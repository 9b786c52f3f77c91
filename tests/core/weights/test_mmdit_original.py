"""MMDiT's original layout: diffusers' own converter and loader as the judges of what its keys mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file
from torch import Tensor

from core.nn.mmdit import MMDiT
from core.weights.mmdit import diffusers_pairs, load_diffusers
from core.weights.mmdit_original import PREFIX, from_original, to_original
from core.weights.pairs import to_theirs
from tests.core.weights.test_mmdit import FULL, KINDS, OURS, SD3, asked, exchanges, our_output, reference, their_output

HEAD_WIDTH = SD3["attention_head_dim"]


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_through_diffusers_folder(tmp_path: Path, kind: str) -> None:
    """Alone, and in one file with an autoencoder and text encoders."""
    theirs = reference(kind)
    theirs.save_pretrained(tmp_path)
    tensors = to_original(load_diffusers(tmp_path))
    given = asked(kind)
    whole = {f"{PREFIX}{key}": value for key, value in tensors.items()}
    whole["first_stage_model.decoder.conv_in.weight"] = torch.zeros(1)
    whole["text_encoders.clip_l.transformer.text_projection.weight"] = torch.zeros(1)
    for file in (tensors, whole):
        net = from_original(file, HEAD_WIDTH, size=32)
        torch.testing.assert_close(our_output(net, *given), their_output(theirs, *given), rtol=0, atol=1e-5)
    again = to_original(net)
    assert again.keys() == tensors.keys() and all(torch.equal(again[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_own_converter_reads_our_export(tmp_path: Path, kind: str) -> None:
    theirs = reference(kind)
    theirs.save_pretrained(tmp_path)
    converted = convert_sd3_transformer_checkpoint_to_diffusers(dict(to_original(load_diffusers(tmp_path))))
    expected = theirs.state_dict()
    assert converted.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(converted[name], value)] == []


@pytest.mark.parametrize("kind", ["sd3", "sd35_large", "sd35_medium"])
def test_diffusers_loads_our_single_file(tmp_path: Path, kind: str) -> None:
    """With the last word of their whole loader: file to answers."""
    theirs = reference(kind)
    theirs.save_pretrained(tmp_path / "folder")
    net = load_diffusers(tmp_path / "folder")
    file = tmp_path / "single.safetensors"
    save_file({f"{PREFIX}{key}": value for key, value in to_original(net).items()}, file)
    again = SD3Transformer2DModel.from_single_file(str(file), config=str(tmp_path / "folder"), local_files_only=True)
    given = asked(kind)
    torch.testing.assert_close(their_output(again.eval(), *given), our_output(net, *given), rtol=0, atol=1e-5)


def test_every_tensor_of_the_file_counts(tmp_path: Path) -> None:
    theirs = reference("sd35_large")
    theirs.save_pretrained(tmp_path)
    tensors, given = to_original(load_diffusers(tmp_path)), asked()
    expected = their_output(theirs, *given)
    for key in tensors:
        with pytest.raises(ValueError, match=r"missing|has no"):
            from_original({name: value for name, value in tensors.items() if name != key}, HEAD_WIDTH)
    for key, twin in exchanges(tensors):
        net = from_original(tensors | {key: tensors[twin], twin: tensors[key]}, HEAD_WIDTH)
        assert (our_output(net, *given) - expected).abs().max() > 2e-5, f"{key} and {twin} were exchanged unnoticed"


@pytest.mark.parametrize(("kind", "count"), [("sd3", 71), ("sd35_large", 83), ("sd35_medium", 95)])
def test_as_many_tensors_as_published_files(kind: str, count: int) -> None:
    """At a depth of 3, with dual attention in 2 blocks."""
    normed, dual = "qk_norm" in KINDS[kind], 2 if kind == "sd35_medium" else 0
    net = MMDiT(heads=2, depth=3, text_width=8, vector_width=8, head_width=8, size=8, table=4, normed=normed, dual=dual)
    assert len(to_original(net)) == count


@pytest.mark.parametrize("kind", FULL)
def test_full_size_keys_and_shapes(kind: str) -> None:
    """Their converter makes of our export exactly the tensors of their network, and we our network of our export."""
    with torch.device("meta"):
        theirs = SD3Transformer2DModel(
            joint_attention_dim=4096, pooled_projection_dim=2048, sample_size=128, **FULL[kind]
        ).state_dict()
        net = OURS[kind]()
    tensors = {key: value.to("meta") for key, value in to_original(net).items()}
    converted = convert_sd3_transformer_checkpoint_to_diffusers(dict(tensors))
    assert {key: value.shape for key, value in converted.items()} == {key: v.shape for key, v in theirs.items()}
    again = from_original(tensors)
    assert {key: v.shape for key, v in again.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    assert (again.heads, again.normed, again.dual, again.size) == (net.heads, net.normed, net.dual, net.size)


def test_the_last_norms_lie_as_published(tmp_path: Path) -> None:
    """Shift, then scale, where diffusers says scale, then shift; everywhere else both say the same."""
    theirs = reference("sd3")
    theirs.save_pretrained(tmp_path)
    tensors, state = to_original(load_diffusers(tmp_path)), theirs.state_dict()
    for original, name in {
        "final_layer.adaLN_modulation.1": "norm_out.linear",
        "joint_blocks.1.context_block.adaLN_modulation.1": "transformer_blocks.1.norm1_context.linear",
    }.items():
        scale, shift = state[f"{name}.weight"].chunk(2)
        assert torch.equal(tensors[f"{original}.weight"], torch.cat([shift, scale]))
    same = {"x_block": "norm1", "context_block": "norm1_context"}
    for stream, name in same.items():
        modulation = tensors[f"joint_blocks.0.{stream}.adaLN_modulation.1.bias"]
        assert torch.equal(modulation, state[f"transformer_blocks.0.{name}.linear.bias"])


def test_foreign_files_are_refused() -> None:
    net = MMDiT(4, 2, 2, 8, 8, 8, size=8, table=4)
    tensors: dict[str, Tensor] = to_original(net)
    assert to_theirs(diffusers_pairs(net), net.state_dict()).keys() != tensors.keys()
    with pytest.raises(ValueError, match=r"extra"):
        from_original(tensors | {"extra": torch.zeros(1)}, 8)
    with pytest.raises(ValueError, match="heads of 64"):
        from_original(tensors)
    with pytest.raises(ValueError, match="no blocks"):
        from_original({key: value for key, value in tensors.items() if "joint_blocks" not in key}, 8)
    with pytest.raises(ValueError, match="square"):
        from_original(tensors | {"pos_embed": torch.zeros(1, 15, 16)}, 8)
    with pytest.raises(ValueError, match="our own format"):
        to_original(MMDiT(4, 2, 1, 8, 0, 8, size=8, table=4))
