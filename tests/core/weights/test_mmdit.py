"""MMDiT's diffusers layout: the three published shapes, tiny, with every parameter and position randomised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.cond import Cond
from core.nn.mmdit import MMDiT, sd3_medium, sd35_large, sd35_medium
from core.weights.mmdit import diffusers_pairs, load_diffusers, save_diffusers
from tests.support.folders import refuses_other_tensors

SD3: dict[str, Any] = {
    "sample_size": 32,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 64,
    "pos_embed_max_size": 24,
}
KINDS: dict[str, dict[str, Any]] = {
    "sd3": SD3,
    "sd35_large": SD3 | {"qk_norm": "rms_norm"},
    "sd35_medium": SD3 | {"num_layers": 3, "qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
    "inpainting": SD3 | {"in_channels": 33},
}
FULL: dict[str, dict[str, Any]] = {
    "sd3": {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192},
    "sd35_large": {
        "num_layers": 38,
        "num_attention_heads": 38,
        "caption_projection_dim": 2432,
        "pos_embed_max_size": 192,
        "qk_norm": "rms_norm",
    },
    "sd35_medium": {
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "dual_attention_layers": tuple(range(13)),
    },
}
OURS = {"sd3": sd3_medium, "sd35_large": sd35_large, "sd35_medium": sd35_medium}


def reference(kind: str) -> SD3Transformer2DModel:
    net = SD3Transformer2DModel(**KINDS[kind])
    with torch.no_grad():
        for name, value in net.state_dict().items():
            noise = torch.randn(value.shape)
            value.copy_(1 + 0.1 * noise if ".norm_" in name and "attn" in name else 0.08 * noise)
    return net.eval()


def asked(kind: str = "sd3", sizes: tuple[int, int] = (16, 10)) -> tuple[Tensor, Tensor, Cond]:
    """Latents (2, 16, 16, 10), times and a condition."""
    concat_channels = KINDS[kind]["in_channels"] - 16
    concat = torch.randn(2, concat_channels, *sizes) if concat_channels else None
    cond = Cond(vector=torch.randn(2, 64), tokens=torch.randn(2, 20, 32), concat=concat)
    return torch.randn(2, 16, *sizes), torch.tensor([999.0, 250.0]), cond


@torch.no_grad()
def their_output(net: SD3Transformer2DModel, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
    seen = x if cond.concat is None else torch.cat([x, cond.concat], dim=1)
    answer: Tensor = net(
        hidden_states=seen, encoder_hidden_states=cond.tokens, pooled_projections=cond.vector, timestep=time
    ).sample
    return answer


@torch.no_grad()
def our_output(net: MMDiT, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
    answer: Tensor = net(x, time, cond)
    return answer


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_there_and_back(tmp_path: Path, kind: str) -> None:
    theirs = reference(kind)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert (tmp_path / "theirs" / "diffusion_pytorch_model.safetensors.index.json").exists()
    net = load_diffusers(tmp_path / "theirs")
    for sizes in ((16, 10), (48, 48), (2, 44)):
        given = asked(kind, sizes)
        expected = their_output(theirs, *given)
        assert expected.std() > 0.05
        torch.testing.assert_close(our_output(net, *given), expected, rtol=0, atol=1e-5)

    save_diffusers(tmp_path / "ours", net)
    again, loading = SD3Transformer2DModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    wanted = {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    assert {key: tuple(v) if isinstance(v := again.config[key], list) else v for key in wanted} == wanted
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert torch.equal(their_output(again, *given), expected)


def exchanges(tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Pairs of names whose tensors could be exchanged, and would have to be noticed."""
    # A bias of all keys changes no softmax, and nobody asks what the last block's text sees.
    silent = ("to_k.bias", "add_k_proj.bias", "1.attn.add_q_proj", "1.attn.norm_added_q", "1.context_block.attn.ln_q")
    keys = [key for key in sorted(tensors) if not any(part in key for part in silent)]
    for i, key in enumerate(keys):
        twins = [other for other in keys[i + 1 :] if tensors[other].shape == tensors[key].shape]
        if twins:
            yield key, twins[0]


def test_every_tensor_of_the_folder_counts(tmp_path: Path) -> None:
    """A folder with one tensor missing, too many or misshapen is refused; with two swapped it says something else."""
    theirs = reference("sd35_large")
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    given = asked()
    expected = their_output(theirs, *given)
    refuses_other_tensors(load_diffusers, tmp_path, tensors, sorted(tensors))
    for name, match in (("context_embedder.weight", "shape"), ("pos_embed.pos_embed", "square")):
        save_file(tensors | {name: tensors[name][..., :12, :].contiguous()}, file)
        with pytest.raises(ValueError, match=match):
            load_diffusers(tmp_path)
    for key, twin in exchanges(tensors):
        save_file(tensors | {key: tensors[twin], twin: tensors[key]}, file)
        change = (our_output(load_diffusers(tmp_path), *given) - expected).abs().max()
        assert change > 2e-5, f"{key} and {twin} were exchanged unnoticed"


@pytest.mark.parametrize(
    ("kind", "count"), [("sd3", 2_028_328_000), ("sd35_large", 8_056_627_520), ("sd35_medium", 2_243_171_520)]
)
def test_full_size_has_exactly_the_tensors_of_diffusers(kind: str, count: int) -> None:
    """A bijection of names, the shapes that go with them, and the published number of parameters."""
    with torch.device("meta"):
        theirs = SD3Transformer2DModel(
            joint_attention_dim=4096, pooled_projection_dim=2048, sample_size=128, **FULL[kind]
        ).state_dict()
        net = OURS[kind]()
    ours, pairs = net.state_dict(), list(diffusers_pairs(net))
    assert sorted(pair.ours for pair in pairs) == sorted(ours)
    assert sorted(name for pair in pairs for name in pair.theirs) == sorted(theirs)
    for pair in pairs:
        assert pair.form.read([theirs[name] for name in pair.theirs]).shape == ours[pair.ours].shape, pair.ours
    assert sum(parameter.numel() for parameter in net.parameters()) == count


def test_a_new_network_has_the_table_of_diffusers() -> None:
    theirs = SD3Transformer2DModel(**SD3).state_dict()["pos_embed.pos_embed"]
    net = MMDiT(heads=4, depth=2, text_width=32, vector_width=64, head_width=8, size=32, table=24)
    torch.testing.assert_close(net.positions.flatten(0, 1)[None], theirs, rtol=0, atol=1e-6)


def test_what_the_layout_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="our own format"):
        save_diffusers(tmp_path, MMDiT(4, 2, 1, 8, 0, 8, size=8, table=4))
    for change, match in (
        ({"caption_projection_dim": 64}, "another width"),
        ({"in_channels": 8}, "more channels out"),
        ({"dual_attention_layers": (1,)}, "the first blocks"),
    ):
        SD3Transformer2DModel(**SD3 | change).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=match):
            load_diffusers(tmp_path)
