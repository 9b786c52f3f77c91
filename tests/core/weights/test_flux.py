"""Flux's diffusers layout: dev, schnell and Fill folders with every parameter randomised, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.cond import Cond
from core.nn.flux import Flux, flux_dev, flux_schnell
from core.nn.patchify import patchify, unpatchify
from core.weights.flux import diffusers_pairs, load_diffusers, save_diffusers
from tests.support.folders import refuses_other_tensors

FLUX = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 24,
    "axes_dims_rope": (4, 6, 6),
}
SIZES = (8, 6)


def reference(guided: bool, concat_channels: int = 0) -> FluxTransformer2DModel:
    config = {**FLUX, "in_channels": 16 + 4 * concat_channels, "out_channels": 16, "guidance_embeds": guided}
    net = FluxTransformer2DModel(**config)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(1 + 0.1 * noise if ".norm_" in name and "attn" in name else 0.08 * noise)
    return net.eval()


def asked(guided: bool, concat_channels: int = 0) -> tuple[Tensor, Tensor, Cond]:
    """Latents (2, 4, 8, 6), times in [0, 1] and a condition."""
    guidance = torch.tensor([3.5, 1.25]) if guided else None
    concat = torch.randn(2, concat_channels, *SIZES) if concat_channels else None
    cond = Cond(vector=torch.randn(2, 24), tokens=torch.randn(2, 8, 32), guidance=guidance, concat=concat)
    return torch.randn(2, 4, *SIZES), torch.tensor([1.0, 0.25]), cond


@torch.no_grad()
def their_output(net: FluxTransformer2DModel, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Through diffusers' interface: packed tokens and coordinates, as its pipeline makes them."""
    seen = x if cond.concat is None else torch.cat([x, cond.concat], dim=1)
    packed = seen.view(2, -1, 4, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 12, -1)
    output = net(
        hidden_states=packed,
        encoder_hidden_states=cond.tokens,
        pooled_projections=cond.vector,
        timestep=t,
        guidance=cond.guidance,
        img_ids=torch.tensor([[0.0, y, x] for y in range(4) for x in range(3)]),
        txt_ids=torch.zeros(8, 3),
    ).sample
    return output.view(2, 4, 3, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(2, 4, *SIZES)


@torch.no_grad()
def our_output(net: Flux, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    answer: Tensor = net(x, 1000 * t, cond)
    return answer


@pytest.mark.parametrize(("guided", "extra_channels"), [(True, 0), (False, 0), (True, 20)])
def test_diffusers_there_and_back(tmp_path: Path, guided: bool, extra_channels: int) -> None:
    """Dev, schnell, and Fill, which sees a masked image and a mask beside x."""
    theirs = reference(guided, extra_channels)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert (tmp_path / "theirs" / "diffusion_pytorch_model.safetensors.index.json").exists()
    net = load_diffusers(tmp_path / "theirs")
    given = asked(guided, extra_channels)
    expected = their_output(theirs, *given)
    assert expected.std() > 0.05
    torch.testing.assert_close(our_output(net, *given), expected, rtol=0, atol=1e-5)

    save_diffusers(tmp_path / "ours", net)
    again, loading = FluxTransformer2DModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    wanted = {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    assert {key: tuple(v) if isinstance(v := again.config[key], list) else v for key in wanted} == wanted
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert torch.equal(their_output(again, *given), expected)


def test_every_tensor_of_the_folder_counts(tmp_path: Path) -> None:
    """A folder with one tensor missing, too many or misshapen is refused; with two swapped it says something else."""
    theirs = reference(guided=True)
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    given = asked(guided=True)
    expected = their_output(theirs, *given)
    refuses_other_tensors(load_diffusers, tmp_path, tensors, sorted(tensors)[::5])
    save_file(tensors | {"x_embedder.weight": torch.zeros(32, 12)}, file)
    with pytest.raises(ValueError, match="shape"):
        load_diffusers(tmp_path)
    keys = [key for key in sorted(tensors) if not key.endswith("to_k.bias")]  # a bias of all keys changes no softmax
    for i, key in enumerate(keys):
        twins = [other for other in keys[i + 1 :] if tensors[other].shape == tensors[key].shape]
        if twins:
            save_file(tensors | {key: tensors[twins[0]], twins[0]: tensors[key]}, file)
            change = (our_output(load_diffusers(tmp_path), *given) - expected).abs().max()
            assert change > 2e-5, f"{key} and {twins[0]} were exchanged unnoticed"


@pytest.mark.parametrize("guided", [True, False])
def test_full_size_has_exactly_the_tensors_of_diffusers(guided: bool) -> None:
    """A bijection of names, and of the shapes that go with them."""
    with torch.device("meta"):
        theirs = FluxTransformer2DModel(guidance_embeds=guided).state_dict()
        ours = (flux_dev() if guided else flux_schnell()).state_dict()
    pairs = list(diffusers_pairs(19, 38, True, guided))
    assert sorted(pair.ours for pair in pairs) == sorted(ours)
    assert sorted(name for pair in pairs for name in pair.theirs) == sorted(theirs)
    for pair in pairs:
        assert pair.form.read([theirs[name] for name in pair.theirs]).shape == ours[pair.ours].shape, pair.ours
    assert sum(value.numel() for value in theirs.values()) == sum(value.numel() for value in ours.values())


def test_packing_is_that_of_the_pipeline() -> None:
    from diffusers import FluxPipeline

    x = torch.randn(2, 4, *SIZES)
    assert torch.equal(patchify(x, 2), FluxPipeline._pack_latents(x, 2, 4, *SIZES))
    assert torch.equal(unpatchify(patchify(x, 2), 2, SIZES), x)


def test_what_the_layout_cannot_hold_is_refused(tmp_path: Path) -> None:
    for net in (Flux(4, 2, 1, 1, 8, 0, (2, 4, 4)), Flux(4, 2, 1, 1, 8, 8, (2, 4, 4), patch=1)):
        with pytest.raises(ValueError, match="our own format"):
            save_diffusers(tmp_path, net)
    FluxTransformer2DModel(**{**FLUX, "in_channels": 15}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="packed 2 x 2"):
        load_diffusers(tmp_path)
    FluxTransformer2DModel(**{**FLUX, "axes_dims_rope": (4, 4, 4)}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="do not fill its heads"):
        load_diffusers(tmp_path)
