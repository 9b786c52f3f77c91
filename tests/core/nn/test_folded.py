"""Folded networks: any size in and out, the network itself where nothing is folded, gradients, prepared conditions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.cond import Cond
from core.nn import text_unet_plan as text_plan
from core.nn.folded import Folded
from core.nn.text_unet import TextUNet
from core.nn.unet import UNet
from tests.support.parameters import randomise

SIZES = [(28, 28), (100, 75), (7, 5), (1, 1), (16, 16)]


class Same(nn.Module):
    """Gives what it gets, and keeps the shape of that."""

    seen: tuple[int, ...] = ()

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        self.seen = tuple(x.shape)
        return x


def small_unet(channels: int, levels: int = 2) -> UNet:
    net = UNet(channels, channels, 8, (1,) * levels, 1, (levels - 1,), groups=4, head_width=8, scale_shift=True)
    return randomise(net, seed=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fold", [1, 2, 4])
@pytest.mark.parametrize("multiple", [1, 4])
def test_the_same_comes_back(size: tuple[int, int], fold: int, multiple: int) -> None:
    net = Same()
    x = torch.randn(2, 3, *size)
    assert torch.equal(Folded(net, fold, multiple)(x, torch.ones(2)), x)
    grid = [-(-side // (fold * multiple)) * multiple for side in size]
    assert net.seen == (2, 3 * fold**2, *grid)


def test_a_channel_holds_one_place_of_every_square() -> None:
    """The network sees channel c p^2 + i p + j: place (i, j) of the squares of channel c."""

    class Keeps(Same):
        kept: Tensor

        def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
            self.kept = x
            return x

    net = Keeps()
    x = torch.randn(1, 2, 6, 8)
    Folded(net, 2, 1)(x, torch.ones(1))
    for c, i, j in ((0, 0, 0), (0, 1, 0), (1, 0, 1), (1, 1, 1)):
        assert torch.equal(net.kept[:, 4 * c + 2 * i + j], x[:, c, i::2, j::2])


def test_without_folding_and_padding_it_is_the_network() -> None:
    net = small_unet(3)
    x, time = torch.randn(2, 3, 12, 8), torch.tensor([0.3, 2.0])
    cond = Cond(vector=torch.randn(2, net.embedded))
    assert torch.equal(Folded(net, 1, 2)(x, time, cond), net(x, time, cond))
    assert Folded(net, 1, 2).embedded == net.embedded > 0


def test_padding_adds_zeros_at_the_far_ends() -> None:
    net = small_unet(1)
    x, time = torch.randn(2, 1, 7, 5), torch.tensor([0.3, 2.0])
    padded = torch.zeros(2, 1, 8, 6)
    padded[:, :, :7, :5] = x
    assert torch.equal(Folded(net, 1, 2)(x, time), net(padded, time)[:, :, :7, :5])


@pytest.mark.parametrize("size", [(28, 28), (10, 7)])
def test_gradients_reach_every_weight_and_pixel(size: tuple[int, int]) -> None:
    net = Folded(small_unet(3 * 4), 2, 2)
    x = torch.randn(2, 3, *size, requires_grad=True)
    cond = Cond(vector=torch.randn(2, net.embedded))
    net(x, torch.tensor([0.3, 2.0]), cond).square().sum().backward()
    assert x.grad is not None and bool((x.grad != 0).all())
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


def test_a_gradient_is_that_of_differences() -> None:
    net = Folded(small_unet(4), 2, 2).double()
    time = torch.tensor([0.7], dtype=torch.float64)
    x = torch.randn(1, 1, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: net(value, time), (x,), atol=1e-6)


def text_net() -> TextUNet:
    plan = text_plan.Plan(8, 8, (8, 8), (0, 1), 6, blocks=1, head_width=8, groups=4)
    return randomise(TextUNet(plan), seed=2)


def text_cond(count: int) -> Cond:
    return Cond(tokens=torch.randn(count, 5, 6))


@pytest.mark.parametrize("prepares", [True, False])
@torch.no_grad()
def test_prepared_is_the_same(prepares: bool) -> None:
    net = Folded(text_net() if prepares else small_unet(8), 2, 2)
    assert hasattr(net.net, "prepare") is prepares
    x = torch.randn(3, 2, 9, 6)
    cond = text_cond(3) if prepares else Cond(vector=torch.randn(3, net.embedded))
    denoise = net.prepare(cond)
    for time in (0.3, 5.0):
        whole = net(x, torch.full((3,), time), cond)
        assert torch.allclose(denoise(x, torch.tensor([time])), whole, atol=1e-6)
    other = text_cond(3) if prepares else Cond(vector=torch.randn(3, net.embedded))
    assert not torch.allclose(net.prepare(other)(x, torch.tensor([5.0])), whole, atol=1e-4)


def test_a_wrapper_of_several_processes_calls_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Folded(small_unet(4), 2, 2)
    x, time, cond = torch.randn(2, 1, 7, 9), torch.tensor([0.3, 2.0]), Cond(vector=torch.randn(2, net.embedded))
    loss = net(x, time, cond).square().mean()
    alone = torch.autograd.grad(loss, list(net.parameters()))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(net)
        assert torch.equal(wrapped(x, time, cond), net(x, time, cond))
        wrapped(x, time, cond=cond).square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    for expected, parameter in zip(alone, net.parameters(), strict=True):
        assert parameter.grad is not None and torch.allclose(parameter.grad, expected, atol=1e-6)
