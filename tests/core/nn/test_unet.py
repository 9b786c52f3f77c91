"""The U-Net: published sizes, dimensions that agree, samples that do not mix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from core.cond import Cond
from core.nn.unet import UNet, adm_64, adm_128, adm_256, adm_512, ddpm_256, ddpm_cifar10
from tests.support.parameters import randomise


def tiny(dims: int = 2, **options: bool) -> UNet:
    net = UNet(2, 2, 16, (1, 2), 1, (1,), dims=dims, groups=8, head_width=8, **options)
    return randomise(net)


@pytest.mark.parametrize(
    ("make", "table", "published"),
    [
        (ddpm_cifar10, 0, 35_746_307),
        (ddpm_256, 0, 113_673_219),
        (adm_64, 1000 * 4 * 192, 295_904_454),
        (adm_128, 1000 * 4 * 256, 421_529_606),
        (adm_256, 1000 * 4 * 256, 553_838_086),
        (adm_512, 1000 * 4 * 256, 558_997_638),
    ],
)
def test_published_sizes(make: Callable[[], UNet], table: int, published: int) -> None:
    with torch.device("meta"):
        net = make()
    assert sum(value.numel() for value in net.parameters()) + table == published


@torch.no_grad()
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("option", ["biggan", "asymmetric", "scale_shift"])
def test_dimensions_agree_where_a_grid_repeats_itself(dims: int, option: str) -> None:
    """On data constant along an axis, a net whose kernels see only their middle there is a net of fewer dimensions."""
    flat, deep = tiny(dims, **{option: True}), tiny(dims + 1, **{option: True})
    state = {}
    for name, wanted in deep.state_dict().items():
        value = flat.state_dict()[name]
        if wanted.ndim > value.ndim:
            # The middle tap only: a constant axis sees itself. A strided kernel pads one value, so its middle is right.
            widened = torch.zeros_like(wanted)
            widened[..., wanted.shape[-1] // 2] = value
            value = widened
        state[name] = value
    deep.load_state_dict(state)
    x, t = torch.randn(2, 2, *[8, 4][:dims]), torch.tensor([1.0, 300.0])
    expected = flat(x, t)
    output = deep(x[..., None].expand(*x.shape, 4).contiguous(), t)
    # Attention over repeated places is attention over the places: all weights are shared alike.
    torch.testing.assert_close(output, expected[..., None].expand_as(output), rtol=0, atol=1e-5)
    assert expected.std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_samples_do_not_mix_and_are_distinguished(dims: int) -> None:
    net = tiny(dims, scale_shift=True)
    x, t, vector = torch.randn(3, 2, *[4] * dims), torch.tensor([0.0, 10.0, 900.0]), torch.randn(3, 64)
    whole = net(x, t, Cond(vector=vector))
    torch.testing.assert_close(whole[1:2], net(x[1:2], t[1:2], Cond(vector=vector[1:2])), rtol=0, atol=1e-5)
    assert (whole - net(x, t.flip(0), Cond(vector=vector))).abs().max() > 1e-2
    assert (whole - net(x, t)).abs().max() > 1e-2


@torch.no_grad()
def test_concat_joins_the_channels() -> None:
    net = UNet(3, 1, 16, (1, 2), 1, (), groups=8).eval()
    nn.init.normal_(net.conv_out.weight)
    x, extra, t = torch.randn(2, 1, 4, 4), torch.randn(2, 2, 4, 4), torch.ones(2)
    assert torch.equal(net(x, t, Cond(concat=extra)), net(torch.cat([x, extra], dim=1), t))


def test_checkpointing_changes_memory_only() -> None:
    plain = tiny().train()
    saving = tiny(checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    x, t = torch.randn(2, 2, 8, 8), torch.tensor([1.0, 5.0])
    for net in (plain, saving):
        net(x, t).square().mean().backward()
    for one, two in zip(plain.parameters(), saving.parameters()):
        assert one.grad is not None and two.grad is not None
        torch.testing.assert_close(one.grad, two.grad)


def test_starts_at_zero() -> None:
    assert not UNet(1, 1, 16, (1, 2), 1, groups=8)(torch.randn(1, 1, 8, 8), torch.ones(1)).any()


@torch.no_grad()
def test_a_head_count_is_a_head_width() -> None:
    """Heads of 8 are four heads of 32 channels, and not one."""
    x, t = torch.randn(2, 2, 4, 4), torch.tensor([1.0, 300.0])
    by_width = tiny()
    output = {}
    for heads in (1, 4):
        net = UNet(2, 2, 16, (1, 2), 1, (1,), groups=8, heads=heads).eval()
        net.load_state_dict(by_width.state_dict())
        output[heads] = net(x, t)
    assert torch.equal(output[4], by_width(x, t))
    assert (output[1] - output[4]).abs().max() > 1e-3


def test_bad_shapes_are_refused() -> None:
    net, time = tiny(), torch.ones(1)
    with pytest.raises(ValueError, match="does not halve"):
        net(torch.zeros(1, 2, 7, 8), time)
    with pytest.raises(ValueError, match="takes 2 channels"):
        net(torch.zeros(1, 2, 8, 8), time, Cond(concat=torch.zeros(1, 1, 8, 8)))
    with pytest.raises(ValueError, match="2 dimensions"):
        net(torch.zeros(1, 2, 8), time)
    with pytest.raises(ValueError, match="width 10"):
        net(torch.zeros(1, 2, 8, 8), time, Cond(vector=torch.zeros(1, 10)))
    with pytest.raises(ValueError, match="groups"):
        UNet(1, 1, 20, groups=8)
    for options in ({"head_width": 24}, {"heads": 3}):
        with pytest.raises(ValueError, match="heads"):
            UNet(1, 1, 32, (1, 2), 1, (1,), **options)
