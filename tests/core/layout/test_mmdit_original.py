"""MMDiT's original layout: the published table of keys, and diffusers' own converter and loader as its judges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file
from torch import Tensor

from core.layout.mmdit import diffusers_pairs, load_diffusers
from core.layout.mmdit_original import PREFIX, from_original, to_original
from core.layout.pairs import to_theirs
from core.nn.mmdit import MMDiT
from tests.core.layout.test_mmdit import KINDS, OURS, asked, ours_said, reference, theirs_said

PUBLISHED = ["sd3", "sd35_large", "sd35_medium"]
STREAM = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4), "adaLN_modulation.1": (6, 1)}
SEEN = {"attn.qkv": (3, 1), "adaLN_modulation.1": (2, 1)}  # all that the text of the last block has
TWICE = {"attn2.qkv": (3, 1), "attn2.proj": (1, 1), "adaLN_modulation.1": (9, 1)}


def published_shapes(net: MMDiT) -> dict[str, tuple[int, ...]]:
    """Every key of one of Stability's files and its shape, for a network of 16 channels with a pooled text."""
    assert net.vector is not None
    width, depth, head = net.width, len(net.blocks) + 1, net.width // net.heads
    layers = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "y_embedder.mlp.0": (width, net.vector.first.in_features),
        "y_embedder.mlp.2": (width, width),
        "context_embedder": (width, net.text.in_features),
        "final_layer.linear": (64, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    scales = []
    for i in range(depth):
        streams = {
            "x_block": STREAM | (TWICE if i < net.dual else {}),
            "context_block": STREAM if i < depth - 1 else SEEN,
        }
        for stream, parts in streams.items():
            for name, (rows, columns) in parts.items():
                layers[f"joint_blocks.{i}.{stream}.{name}"] = (rows * width, columns * width)
                if name.endswith("qkv") and net.normed:
                    scales.append(f"joint_blocks.{i}.{stream}.{name.removesuffix('.qkv')}")
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in layers.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    shapes |= {f"{name}.ln_{letter}.weight": (head,) for name in scales for letter in "qk"}
    shapes |= {"x_embedder.proj.weight": (width, 16, 2, 2), "x_embedder.proj.bias": (width,)}
    return shapes | {"pos_embed": (1, net.table**2, width)}


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items()}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_diffusers_reads_our_export_and_we_read_what_it_reads(tmp_path: Path, kind: str) -> None:
    """Bare keys and prefixed ones beside other networks; through diffusers' converter and its single-file loader."""
    theirs = reference(kind)
    theirs.save_pretrained(tmp_path)
    net = load_diffusers(tmp_path)
    tensors = to_original(net)
    assert shapes_of(tensors) == published_shapes(net)
    given = asked(kind)
    expected = theirs_said(theirs, *given)

    converted, state = convert_sd3_transformer_checkpoint_to_diffusers(dict(tensors)), theirs.state_dict()
    assert converted.keys() == state.keys()
    assert [name for name, value in state.items() if not torch.equal(converted[name], value)] == []

    whole = {PREFIX + key: value for key, value in tensors.items()}
    save_file(whole, tmp_path / "single.safetensors")
    single = SD3Transformer2DModel.from_single_file(
        str(tmp_path / "single.safetensors"), config=str(tmp_path), local_files_only=True
    )
    assert torch.equal(theirs_said(single.eval(), *given), expected)

    beside = {
        "first_stage_model.decoder.conv_in.bias": torch.zeros(1),
        "text_encoders.clip_l.logit_scale": torch.ones(1),
    }
    for file in (tensors, whole | beside):
        read = from_original(file, head_width=8, size=32, what="a file")
        assert (read.normed, read.dual, read.heads, read.table) == (net.normed, net.dual, 4, 24)
        torch.testing.assert_close(ours_said(read, *given), expected, rtol=0, atol=1e-5)
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in read.state_dict().items())


def test_only_the_last_norms_are_said_the_other_way_round(tmp_path: Path) -> None:
    """The norm of the output and that of the last block's text: (shift, scale) here, (scale, shift) in diffusers."""
    theirs = reference("sd35_medium")
    theirs.save_pretrained(tmp_path)
    tensors, state = to_original(load_diffusers(tmp_path)), theirs.state_dict()
    names = {
        "final_layer.adaLN_modulation.1": "norm_out",
        "joint_blocks.2.context_block.adaLN_modulation.1": "transformer_blocks.2.norm1_context",
    }
    for ours, name in names.items():
        for part in ("weight", "bias"):
            scale, shift = state[f"{name}.linear.{part}"].chunk(2)
            assert torch.equal(tensors[f"{ours}.{part}"], torch.cat([shift, scale]))
    for i, (stream, name) in ((0, ("context_block", "norm1_context")), (2, ("x_block", "norm1"))):
        same = tensors[f"joint_blocks.{i}.{stream}.adaLN_modulation.1.weight"]
        assert torch.equal(same, state[f"transformer_blocks.{i}.{name}.linear.weight"])
    rows = [state[f"transformer_blocks.1.attn.add_{letter}_proj.weight"] for letter in "qkv"]
    assert torch.equal(tensors["joint_blocks.1.context_block.attn.qkv.weight"], torch.cat(rows))
    assert torch.equal(tensors["final_layer.linear.weight"], state["proj_out.weight"])
    assert torch.equal(tensors["pos_embed"], state["pos_embed.pos_embed"])


@pytest.mark.parametrize(("kind", "count"), [("sd3", 71), ("sd35_large", 83), ("sd35_medium", 95)])
def test_key_counts_at_depth_three(kind: str, count: int) -> None:
    config = KINDS[kind]
    dual = len(config.get("dual_attention_layers", ()))
    net = MMDiT(16, 4, 3, 32, 64, 8, size=32, table=24, normed="qk_norm" in config, dual=dual)
    assert len(to_original(net)) == count


@pytest.mark.parametrize("kind", PUBLISHED)
def test_full_size_keys_and_shapes(kind: str) -> None:
    """Our export at full size has the published names, and both layouts are made of the same numbers."""
    with torch.device("meta"):
        net = OURS[kind]()
    tensors = to_original(net)
    assert shapes_of(tensors) == published_shapes(net)
    # What files of the three are told apart by.
    sizes = {"sd3": (9216, 36864, 23), "sd35_large": (14592, 36864, 37), "sd35_medium": (9216, 147456, 23)}
    told = len(tensors["joint_blocks.0.context_block.adaLN_modulation.1.bias"])
    deepest = max(int(key.split(".")[1]) for key in tensors if key.startswith("joint_blocks"))
    assert (told, tensors["pos_embed"].shape[1], deepest) == sizes[kind]
    converted = convert_sd3_transformer_checkpoint_to_diffusers(dict(tensors))
    state = {name: value.detach() for name, value in net.state_dict().items()}
    expected = to_theirs(diffusers_pairs(net), state)
    assert shapes_of(converted) == shapes_of(expected)


def test_shapes_alone_say_what_a_network_of_heads_of_64_is() -> None:
    net = MMDiT(16, 2, 2, 8, 8, 64, size=8, table=4)
    read = from_original(to_original(net))
    assert (read.heads, read.channels, read.patch, read.table, len(read.blocks)) == (2, 16, 2, 4, 1)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in read.state_dict().items())


def test_foreign_files_are_refused() -> None:
    net = MMDiT(4, 2, 2, 8, 8, 8, size=8, table=4, normed=True, dual=1)
    tensors = to_original(net)
    for key in tensors:
        with pytest.raises(ValueError, match=r"no original MMDiT|missing|unknown|divide|blocks"):
            from_original({name: value for name, value in tensors.items() if name != key}, 8)
    with pytest.raises(ValueError, match="x_embedder"):
        from_original({})
    with pytest.raises(ValueError, match="extra"):
        from_original(tensors | {"extra": torch.zeros(1)}, 8)
    with pytest.raises(ValueError, match="square"):
        from_original(tensors | {"pos_embed": torch.zeros(1, 12, 16)}, 8)
    with pytest.raises(ValueError, match="shape"):
        from_original(tensors | {"context_embedder.bias": torch.zeros(3)}, 8)
    moved = {
        key.replace("joint_blocks.0.x_block.attn2", "joint_blocks.1.x_block.attn2"): value
        for key, value in tensors.items()
    }
    with pytest.raises(ValueError, match="attn2"):
        from_original(moved, 8)
    plain = to_original(MMDiT(4, 2, 2, 8, 8, 8, size=8, table=4))
    with pytest.raises(ValueError, match="heads of 64"):
        from_original(plain)
    with pytest.raises(ValueError, match="our own format"):
        to_original(MMDiT(4, 2, 2, 8, 0, 8, size=8, table=4))
