"""NCSN++: the FIR filter against its definition, the pyramids, batch independence and published sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import upfirdn
from torch import Tensor, nn

from core.cond import Cond
from image.aliases import ALIASES
from image.nn.biggan import Attention, Residual
from image.nn.fir import BOX, FIR, box_down, box_up, fir_blur, fir_down, fir_up
from image.nn.ncsnpp import (
    InputResidual,
    InputSkip,
    LogFourier,
    NCSNpp,
    Positional,
    ddpmpp_cifar10,
    ncsnpp_256,
    ncsnpp_cifar10,
)
from tests.support.parameters import randomise

TAPS = np.array([1.0, 3.0, 3.0, 1.0]) / 8


def nets() -> dict[str, NCSNpp]:
    widths = (8, 16, 16)
    return {
        "residual": NCSNpp(LogFourier(8), widths, 2, (1,), FIR, progressive_input=InputResidual, centre=True),
        "skip": NCSNpp(LogFourier(8), widths, 1, (1, 2), FIR, progressive_input=InputSkip, progressive=True),
        "plain": NCSNpp(Positional(8), widths, 1, (0,), BOX),
    }


def both_axes(x: Tensor, up: int, down: int, before: int, after: int, gain: float) -> Tensor:
    """scipy's upfirdn along H and then W of an image padded with zeros ``before`` and ``after``."""
    value = x.numpy()
    for axis in (2, 3):
        stretched = np.zeros([n * up if i == axis else n for i, n in enumerate(value.shape)])
        stretched[tuple(slice(None, None, up) if i == axis else slice(None) for i in range(4))] = value
        padded = np.pad(stretched, [(before, after) if i == axis else (0, 0) for i in range(4)])
        filtered = upfirdn(gain * TAPS, padded, axis=axis)
        inside = [slice(3, filtered.shape[axis] - 3, down) if i == axis else slice(None) for i in range(4)]
        value = filtered[tuple(inside)]
    return torch.from_numpy(value)


def test_fir_is_the_filter_of_its_definition() -> None:
    """Zeros between and around the samples, the taps, every second sample: the definition of StyleGAN2's upfirdn."""
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    torch.testing.assert_close(fir_down(x), both_axes(x, 1, 2, 1, 1, 1.0), rtol=0, atol=1e-14)
    torch.testing.assert_close(fir_up(x), both_axes(x, 2, 1, 2, 1, 2.0), rtol=0, atol=1e-14)
    torch.testing.assert_close(fir_blur(x), both_axes(x, 1, 1, 2, 2, 1.0), rtol=0, atol=1e-14)


def test_resampling_keeps_the_mean_of_what_is_inside() -> None:
    x = F.pad(torch.randn(1, 2, 4, 4, dtype=torch.float64), (4, 4, 4, 4))
    for down, up in ((fir_down, fir_up), (box_down, box_up)):
        torch.testing.assert_close(down(x).sum(), x.sum() / 4)
        torch.testing.assert_close(up(x).sum(), x.sum() * 4)


def test_attention_mixes_pixels_as_one_head() -> None:
    net = randomise(Attention(8), seed=0).double()
    x = torch.randn(2, 8, 3, 2, dtype=torch.float64)
    h = net.norm(x).flatten(2)  # (B, C, N)
    query, key, value = (net.qkv.weight @ h + net.qkv.bias[:, None]).chunk(3, dim=1)
    weights = (query.transpose(1, 2) @ key / math.sqrt(8)).softmax(-1)  # (B, N, M)
    mixed = net.project.weight @ (value @ weights.transpose(1, 2)) + net.project.bias[:, None]
    torch.testing.assert_close(net(x), (x + mixed.reshape(x.shape)) / math.sqrt(2))


def test_a_new_residual_block_is_half_its_input_in_power() -> None:
    """Its last convolution starts at nothing, so that only the sum's 1 / sqrt(2) is left."""
    block, x = Residual(8, 8, 4, dropout=0.0), torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x, torch.randn(2, 4)), x / math.sqrt(2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["residual", "skip", "plain"])
def test_samples_of_a_batch_do_not_meet(name: str) -> None:
    net = randomise(nets()[name], seed=0)
    x, time, vector = torch.randn(3, 3, 16, 8), torch.tensor([0.01, 1.0, 50.0]), torch.randn(3, 32)
    together = net(x, time, Cond(vector=vector))
    assert together.shape == x.shape
    for i in range(3):
        alone = net(x[i : i + 1], time[i : i + 1], Cond(vector=vector[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["residual", "skip", "plain"])
def test_every_parameter_is_used(name: str) -> None:
    net = randomise(nets()[name], seed=0)
    net(torch.randn(2, 3, 8, 8), torch.tensor([0.5, 30.0])).square().mean().backward()
    silent = [key for key, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not silent


def test_painted_levels_add_up() -> None:
    """Silence every painter but one: the images of the levels sum to the whole."""
    net = randomise(nets()["skip"], seed=0).double()
    x, time = torch.randn(1, 3, 8, 8, dtype=torch.float64), torch.tensor([3.0])
    whole = net(x, time)
    total = torch.zeros_like(whole)
    for speaking in range(3):
        solo = randomise(nets()["skip"], seed=0).double()
        solo.load_state_dict(net.state_dict())
        for level, decoder in enumerate(solo.decoders):
            if level != speaking:
                nn.init.zeros_(decoder.output_skip.conv.weight)
                nn.init.zeros_(decoder.output_skip.conv.bias)
        total = total + solo(x, time)
    torch.testing.assert_close(total, whole)


def test_time_features_are_the_published_ones() -> None:
    features, sigma = LogFourier(5), torch.tensor([0.01, 2.0, 348.0])
    assert features.weight.std() > 4  # deviation 16
    angles = 2 * math.pi * sigma.log()[:, None] * features.weight
    torch.testing.assert_close(features(sigma), torch.cat([angles.sin(), angles.cos()], -1), rtol=0, atol=1e-3)
    angles = sigma[:, None] * 10_000 ** (-torch.arange(4) / 3)
    torch.testing.assert_close(Positional(8)(sigma), torch.cat([angles.sin(), angles.cos()], -1), rtol=0, atol=1e-4)


def test_centring_is_the_map_from_unit_data() -> None:
    centred, plain = nets()["residual"], nets()["residual"]
    plain.load_state_dict(centred.state_dict())
    plain.centre = False
    x, time = torch.rand(2, 3, 8, 8), torch.tensor([0.5, 30.0])
    torch.testing.assert_close(centred(x, time), plain(2 * x - 1, time))


def test_published_sizes() -> None:
    """65,574,549 counts the 128 fixed Fourier frequencies, which are a buffer here."""
    with torch.device("meta"):
        large, ve, vp = ncsnpp_256(), ncsnpp_cifar10(), ddpmpp_cifar10()
        deep_ve, deep_vp = ncsnpp_cifar10(depth=8), ddpmpp_cifar10(depth=8)

    def count(net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    assert count(large) + large.features.weight.numel() == 65_574_549
    assert [round(count(net) / 1e5) for net in (ve, vp)] == [628, 618]  # 62.8 and 61.8 million
    assert count(deep_ve) - count(ve) == count(deep_vp) - count(vp) > 44e6


def test_an_image_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        nets()["plain"](torch.zeros(1, 3, 8, 6), torch.ones(1))


@pytest.mark.parametrize("name", ["residual", "skip", "plain"])
def test_tensors_of_older_files_get_the_names_of_today(name: str) -> None:
    net = nets()[name]
    today = list(net.state_dict())
    old = {"progressive_input": "told", "output_skip": "painter"}
    before = [".".join(old.get(part, part) for part in key.split(".")) for key in today]
    assert before != today
    assert [ALIASES.tensor(net, key, 1) for key in before] == today
    assert [ALIASES.tensor(net, key, 2) for key in today] == today
