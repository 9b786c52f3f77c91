"""DiT's published layouts: diffusers' folder with every parameter randomised, and the original's keys, both ways."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.cond import Cond
from core.nn.dit import DiT, Patches, dit_xl
from core.weights.dit import from_original, load_diffusers, save_diffusers, to_original
from tests.support.folders import refuses_other_tensors
from tests.support.parameters import randomise

TIME, LABELS = torch.tensor([7, 421]), torch.tensor([2, 5])  # 5 of 5 classes: the null label


def reference(bias: bool = True, out_channels: int = 6, patch: int = 2) -> DiTTransformer2DModel:
    net = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=3,
        out_channels=out_channels,
        num_layers=3,
        attention_bias=bias,
        sample_size=8,
        patch_size=patch,
        num_embeds_ada_norm=5,
    )
    randomise(net)
    return net


@torch.no_grad()
def output_of(net: DiT, table: Tensor, x: Tensor) -> Tensor:
    answer: Tensor = net(x, TIME.float(), Cond(vector=table[LABELS]))
    return answer


@torch.no_grad()
@pytest.mark.parametrize(("bias", "out_channels", "patch"), [(True, 6, 2), (False, 3, 4)])
def test_diffusers_there_and_back(tmp_path: Path, bias: bool, out_channels: int, patch: int) -> None:
    theirs = reference(bias, out_channels, patch)
    theirs.save_pretrained(tmp_path / "theirs")
    net, table = load_diffusers(tmp_path / "theirs")
    x = torch.randn(2, 3, 8, 8)
    expected = theirs(x, TIME, LABELS).sample
    assert expected.std() > 0.05
    torch.testing.assert_close(output_of(net, table, x), expected, rtol=0, atol=1e-5)

    save_diffusers(tmp_path / "ours", net, table)
    again, loading = DiTTransformer2DModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    wanted = {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    assert {key: again.config[key] for key in wanted} == wanted
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@torch.no_grad()
def test_every_tensor_of_the_folder_counts(tmp_path: Path) -> None:
    """A folder with one tensor missing, too many or misshapen is refused; with two swapped it says something else."""
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    x = torch.randn(2, 3, 8, 8)
    expected = theirs(x, TIME, LABELS).sample

    refuses_other_tensors(load_diffusers, tmp_path, tensors, sorted(tensors)[::5])
    for i, key in list(enumerate(keys := sorted(tensors)))[::3]:
        twins = [other for other in keys[i + 1 :] if tensors[other].shape == tensors[key].shape]
        if twins:
            save_file(tensors | {key: tensors[twins[0]], twins[0]: tensors[key]}, file)
            net, table = load_diffusers(tmp_path)
            assert (output_of(net, table, x) - expected).abs().max() > 1e-4, (
                f"{key} and {twins[0]} were exchanged unnoticed"
            )


@torch.no_grad()
def test_equal_copies_become_one_embedding(tmp_path: Path) -> None:
    """As in converted checkpoints, whose blocks all hold the same time embedding and the same table of classes."""
    theirs = reference()
    for block in theirs.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "diffusion_pytorch_model.safetensors.index.json").exists()
    net, table = load_diffusers(tmp_path / "theirs")
    assert len(net.times) == 1 and table.shape == (6, 24)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(output_of(net, table, x), theirs(x, TIME, LABELS).sample, rtol=0, atol=1e-5)
    save_diffusers(tmp_path / "ours", net, table)
    again, loading = DiTTransformer2DModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_xl_2_has_exactly_the_tensors_of_diffusers(tmp_path: Path) -> None:
    """One embedding for all blocks; the other 27 copies are all that diffusers' class has more."""
    with torch.device("meta"):
        theirs = DiTTransformer2DModel(out_channels=8, sample_size=32)
        ours = dit_xl()
    copy = sum(p.numel() for p in theirs.transformer_blocks[0].norm1.emb.parameters())
    table = 1001 * 1152
    assert sum(p.numel() for p in ours.parameters()) + table == sum(p.numel() for p in theirs.parameters()) - 27 * copy


def original() -> dict[str, Tensor]:
    """Random tensors as facebookresearch/DiT names them: width 24, 2 blocks, patches of 2 of 8 x 8 x 3 images."""
    shapes = {"x_embedder.proj": (24, 3, 2, 2), "t_embedder.mlp.0": (24, 256), "t_embedder.mlp.2": (24, 24)}
    shapes |= {"final_layer.adaLN_modulation.1": (48, 24), "final_layer.linear": (24, 24)}
    for i in range(2):
        shapes |= {f"blocks.{i}.attn.qkv": (72, 24), f"blocks.{i}.attn.proj": (24, 24)}
        shapes |= {f"blocks.{i}.mlp.fc1": (96, 24), f"blocks.{i}.mlp.fc2": (24, 96)}
        shapes |= {f"blocks.{i}.adaLN_modulation.1": (144, 24)}
    tensors = {f"{name}.weight": 0.08 * torch.randn(shape) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": 0.08 * torch.randn(shape[0]) for name, shape in shapes.items()}
    grid = torch.arange(4).double()
    angles = grid[:, None] * 10000 ** (-torch.arange(6).double() / 6)
    axis = torch.cat([angles.sin(), angles.cos()], 1)  # (4, 12)
    table = torch.cat([axis[None].expand(4, 4, 12), axis[:, None].expand(4, 4, 12)], -1)  # columns first, then rows
    return tensors | {
        "y_embedder.embedding_table.weight": 0.08 * torch.randn(6, 24),
        "pos_embed": table.reshape(1, 16, 24).float(),
    }


def original_forward(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """The original's forward pass, with 3 heads, written from its description on its own tensor names."""

    def apply(name: str, h: Tensor) -> Tensor:
        return F.linear(h, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def steer(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(h, (24,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
    angles = TIME[:, None] * frequencies
    c = apply("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], -1))
    c = F.silu(apply("t_embedder.mlp.2", F.silu(c)) + tensors["y_embedder.embedding_table.weight"][LABELS])
    h = F.conv2d(x, tensors["x_embedder.proj.weight"], tensors["x_embedder.proj.bias"], stride=2)
    h = h.flatten(2).transpose(1, 2) + tensors["pos_embed"]
    for i in range(2):
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = apply(f"blocks.{i}.adaLN_modulation.1", c).chunk(6, 1)
        qkv = apply(f"blocks.{i}.attn.qkv", steer(h, shift, scale)).reshape(2, 16, 3, 3, 8).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(2, 16, 24)
        h = h + gate[:, None] * apply(f"blocks.{i}.attn.proj", mixed)
        inner = F.gelu(apply(f"blocks.{i}.mlp.fc1", steer(h, mlp_shift, mlp_scale)), approximate="tanh")
        h = h + mlp_gate[:, None] * apply(f"blocks.{i}.mlp.fc2", inner)
    shift, scale = apply("final_layer.adaLN_modulation.1", c).chunk(2, 1)
    h = apply("final_layer.linear", steer(h, shift, scale)).reshape(2, 4, 4, 2, 2, 6)
    return torch.einsum("nhwpqc->nchpwq", h).reshape(2, 6, 8, 8)


@torch.no_grad()
def test_original_keys_there_and_back() -> None:
    tensors, x = original(), torch.randn(2, 3, 8, 8)
    net, table = from_original(tensors, heads=3)
    expected = original_forward(tensors, x)
    assert expected.std() > 0.05
    torch.testing.assert_close(output_of(net, table, x), expected, rtol=0, atol=1e-5)
    back = to_original(net, table)
    assert back.keys() == tensors.keys()
    for key, value in tensors.items():
        torch.testing.assert_close(back[key], value, rtol=0, atol=1e-6 if key == "pos_embed" else 0)


def test_foreign_originals_are_refused_in_a_sentence(tmp_path: Path) -> None:
    tensors = original()
    for key in tensors:
        with pytest.raises(ValueError, match=r"this layout|no original DiT"):
            from_original({name: value for name, value in tensors.items() if name != key}, heads=3)
    with pytest.raises(ValueError, match="position table"):
        from_original(tensors | {"pos_embed": torch.zeros(1, 16, 24)}, heads=3)
    net, table = from_original(tensors, heads=3)
    with pytest.raises(ValueError, match="shift"):
        save_diffusers(tmp_path, net, table)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="square images"):
        to_original(DiT(Patches((8, 4), 3, 24, 2), depth=1, heads=3), table)


def test_foreign_folders_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        load_diffusers(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="holds a UNet2DModel"):
        load_diffusers(tmp_path)
    reference().save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("gelu-approximate", "geglu"))
    with pytest.raises(ValueError, match="activation_fn"):
        load_diffusers(tmp_path)
