"""NCSN++ in diffusers' folder of skip blocks: parity with every parameter randomised, and the way back."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.denoiser import Denoiser
from core.prediction import Epsilon
from core.schedule import VE
from image.nn.fir import BOX, FIR
from image.nn.ncsnpp import InputSkip, LogFourier, NCSNpp, Positional
from image.published.layouts.ncsnpp import load_diffusers, save_diffusers
from tests.support.folders import refuses_other_tensors
from tests.support.parameters import randomise

SIGMA = torch.tensor([0.5, 30.0])


def reference(centre: bool = False, attention: int = 1) -> UNet2DModel:
    kinds = ["AttnSkip" if level == attention else "Skip" for level in range(3)]
    net = UNet2DModel(
        sample_size=16,
        center_input_sample=centre,
        time_embedding_type="fourier",
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        mid_block_scale_factor=math.sqrt(2.0),
        norm_num_groups=None,
        norm_eps=1e-6,
        attention_head_dim=None,
    )
    randomise(net)
    return net


@torch.no_grad()
def score(net: NCSNpp, x: Tensor) -> Tensor:
    answer: Tensor = -net(x, SIGMA) / SIGMA[:, None, None, None]
    return answer


@torch.no_grad()
@pytest.mark.parametrize(("centre", "attention"), [(False, 1), (True, 2)])
def test_diffusers_there_and_back(tmp_path: Path, centre: bool, attention: int) -> None:
    theirs = reference(centre, attention)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="1MB")
    net = load_diffusers(tmp_path / "theirs")
    x = torch.randn(2, 3, 16, 16)
    expected = theirs(x, SIGMA).sample
    assert expected[0].std() > 0.5
    torch.testing.assert_close(score(net, x), expected, rtol=0, atol=1e-4)

    save_diffusers(tmp_path / "ours", net, 16)
    again, loading = UNet2DModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    wanted = {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    differing = {key for key in wanted if _plain(again.config[key]) != _plain(wanted[key])}
    assert not differing
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@torch.no_grad()
def test_their_score_is_our_denoiser(tmp_path: Path) -> None:
    """x + sigma^2 score, the mean of x0, is what a Denoiser of ``Epsilon`` under VE makes of the network."""
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    schedule = VE()
    denoiser = Denoiser(load_diffusers(tmp_path), schedule, Epsilon(), clock=lambda t: schedule(t)[1])
    t, x = schedule.time(SIGMA.double()), torch.randn(2, 3, 16, 16)
    sigma = SIGMA[:, None, None, None]
    clean = x + sigma**2 * theirs(x, SIGMA).sample
    torch.testing.assert_close(denoiser(x, t) / sigma, clean / sigma, rtol=0, atol=1e-4)


@torch.no_grad()
def test_every_tensor_of_the_folder_counts(tmp_path: Path) -> None:
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    x = torch.randn(2, 3, 8, 8)
    expected = theirs(x, SIGMA).sample
    keys = ("time_proj.weight", "up_blocks.1.skip_conv.bias", "mid_block.attentions.0.to_k.bias")
    refuses_other_tensors(load_diffusers, tmp_path, tensors, keys)
    for key, twin in exchanges(tensors):
        save_file(tensors | {key: tensors[twin], twin: tensors[key]}, file)
        difference = (score(load_diffusers(tmp_path), x) - expected).abs().max()
        assert difference > 1e-4, f"{key} and {twin} were exchanged unnoticed"


def exchanges(tensors: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Each tensor with the next of its name and shape in another layer; every third of them, for time."""
    pairs = []
    for i, key in enumerate(keys := sorted(tensors)):
        alike = [k for k in keys[i + 1 :] if k.split(".")[-2:] == key.split(".")[-2:]]
        # The bias of to_k adds the same to every score of a query: the softmax does not see it.
        twins = [k for k in alike if tensors[k].shape == tensors[key].shape and "to_k.bias" not in k]
        pairs += [(key, twin) for twin in twins[:1]]
    return pairs[::3]


@torch.no_grad()
def test_old_names_of_attention_are_read(tmp_path: Path) -> None:
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    for new, name in old.items():
        tensors = {key.replace(f".{new}.", f".{name}."): value for key, value in tensors.items()}
    save_file(tensors, file)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(score(load_diffusers(tmp_path), x), theirs(x, SIGMA).sample, rtol=0, atol=1e-4)


def test_what_diffusers_cannot_express_is_refused(tmp_path: Path) -> None:
    widths = (32, 128)
    for net in (
        NCSNpp(Positional(32), widths, 1, (1,), FIR, progressive_input=InputSkip, progressive=True),
        NCSNpp(LogFourier(32), widths, 1, (1,), BOX, progressive_input=InputSkip, progressive=True),
        NCSNpp(LogFourier(32), widths, 1, (1,), FIR, progressive=True),
        NCSNpp(LogFourier(32), widths, 1, (1,), FIR, progressive_input=InputSkip),
        NCSNpp(LogFourier(32), widths, 1, (1,), FIR, progressive_input=InputSkip, progressive=True, channels=1),
    ):
        with pytest.raises(ValueError, match="log-sigma features, FIR"):
            save_diffusers(tmp_path, net, 16)
    with pytest.raises(ValueError, match="from width 128 on"):
        save_diffusers(
            tmp_path, NCSNpp(LogFourier(32), widths, 1, (0,), FIR, progressive_input=InputSkip, progressive=True), 16
        )
    assert not list(tmp_path.iterdir())


def test_other_networks_in_the_same_class_are_refused(tmp_path: Path) -> None:
    net = UNet2DModel(block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    net.save_pretrained(tmp_path / "ddpm")
    with pytest.raises(ValueError, match="time_embedding_type"):
        load_diffusers(tmp_path / "ddpm")
    reference().save_pretrained(tmp_path / "unequal")
    config = tmp_path / "unequal" / "config.json"
    config.write_text(config.read_text().replace('"AttnSkipUpBlock2D"', '"SkipUpBlock2D"'))
    with pytest.raises(ValueError, match="skip blocks"):
        load_diffusers(tmp_path / "unequal")
