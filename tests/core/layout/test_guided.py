"""guided-diffusion's keys, both orders of attention's rows, against an independent reading of its blocks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.checkpoint import CheckpointError
from core.cond import Cond
from core.layout.guided import load_guided, rows, to_guided
from core.nn.unet import UNet

TIME = torch.tensor([3.0, 801.0])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network(biggan: bool = True, scale_shift: bool = True) -> UNet:
    net = UNet(3, 6, 32, (1, 2), 1, (1,), head_width=16, scale_shift=scale_shift, biggan=biggan)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape)
            norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.1 * noise if norm else 0.08 * noise)
    return net.eval()


class Reader:
    """guided-diffusion's forward pass, written from its key layout alone."""

    def __init__(self, tensors: dict[str, Tensor], by_head: bool, heads: int, scale_shift: bool) -> None:
        self.t, self.by_head, self.heads, self.scale_shift = tensors, by_head, heads, scale_shift

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.t[f"{name}.weight"]
        return F.conv2d(x, weight, self.t[f"{name}.bias"], stride, weight.shape[-1] // 2)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.t[f"{name}.weight"], self.t[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.t[f"{name}.weight"], self.t[f"{name}.bias"], 1e-5)

    def block(self, name: str, x: Tensor, e: Tensor, resample: str = "") -> Tensor:
        h = F.silu(self.norm(f"{name}.in_layers.0", x))
        if resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if resample == "up":
            h, x = F.interpolate(h, scale_factor=2), F.interpolate(x, scale_factor=2)
        h = self.conv(f"{name}.in_layers.2", h)
        t = self.linear(f"{name}.emb_layers.1", F.silu(e))[:, :, None, None]
        if self.scale_shift:
            scale, shift = t.chunk(2, 1)
            h = self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = self.norm(f"{name}.out_layers.0", h + t)
        h = self.conv(f"{name}.out_layers.3", F.silu(h))
        return h + (self.conv(f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in self.t else x)

    def attention(self, name: str, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        qkv = F.conv1d(
            self.norm(f"{name}.norm", x).flatten(2), self.t[f"{name}.qkv.weight"], self.t[f"{name}.qkv.bias"]
        )
        width = channels // self.heads
        if self.by_head:
            q, k, v = qkv.reshape(batch * self.heads, 3 * width, -1).split(width, dim=1)
        else:
            q, k, v = (part.reshape(batch * self.heads, width, -1) for part in qkv.chunk(3, dim=1))
        scale = 1 / math.sqrt(math.sqrt(width))
        weight = torch.einsum("bct,bcs->bts", q * scale, k * scale).softmax(dim=-1)
        h = torch.einsum("bts,bcs->bct", weight, v).reshape(batch, channels, -1)
        h = F.conv1d(h, self.t[f"{name}.proj_out.weight"], self.t[f"{name}.proj_out.bias"])
        return x + h.reshape(x.shape)

    def __call__(self, x: Tensor, labels: Tensor, biggan: bool) -> Tensor:
        frequency = torch.exp(-math.log(10000) * torch.arange(16) / 16)
        angles = TIME[:, None] * frequency
        e = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))))
        e = e + self.t["label_emb.weight"][labels]
        h0 = self.conv("input_blocks.0.0", x)
        h1 = self.block("input_blocks.1.0", h0, e)
        if biggan:
            h2 = self.block("input_blocks.2.0", h1, e, "down")
        else:
            h2 = self.conv("input_blocks.2.0.op", h1, stride=2)
        h3 = self.attention("input_blocks.3.1", self.block("input_blocks.3.0", h2, e))
        h = self.attention("middle_block.1", self.block("middle_block.0", h3, e))
        h = self.block("middle_block.2", h, e)
        h = self.attention("output_blocks.0.1", self.block("output_blocks.0.0", torch.cat([h, h3], 1), e))
        h = self.attention("output_blocks.1.1", self.block("output_blocks.1.0", torch.cat([h, h2], 1), e))
        if biggan:
            h = self.block("output_blocks.1.2", h, e, "up")
        else:
            h = self.conv("output_blocks.1.2.conv", F.interpolate(h, scale_factor=2))
        h = self.block("output_blocks.2.0", torch.cat([h, h1], 1), e)
        h = self.block("output_blocks.3.0", torch.cat([h, h0], 1), e)
        return self.conv("out.2", F.silu(self.norm("out.0", h)))


@torch.no_grad()
@pytest.mark.parametrize("by_head", [True, False])
@pytest.mark.parametrize(("biggan", "scale_shift"), [(True, True), (False, False)])
def test_keys_mean_what_the_original_means(by_head: bool, biggan: bool, scale_shift: bool) -> None:
    net = network(biggan, scale_shift)
    table = torch.cat([torch.randn(5, 128) * 0.1, torch.zeros(1, 128)])
    labels = torch.tensor([4, 0])
    tensors = to_guided(net, by_head, table)
    x = torch.randn(2, 3, 8, 8)
    # The middle has 64 channels like the level above it: four heads of 16 everywhere.
    expected = Reader(tensors, by_head, 4, scale_shift)(x, labels, biggan)
    assert expected.std() > 0.1
    torch.testing.assert_close(net(x, TIME, Cond(vector=table[labels])), expected, rtol=0, atol=1e-5)
    wrong = Reader(tensors, not by_head, 4, scale_shift)(x, labels, biggan)
    assert (wrong - expected).abs().max() > 1e-2

    again = network(biggan, scale_shift)
    nn.init.zeros_(again.conv_in.weight)
    loaded = load_guided(again, tensors, by_head)
    assert loaded is not None and torch.equal(loaded, table)
    assert torch.equal(again(x, TIME, Cond(vector=table[labels])), net(x, TIME, Cond(vector=table[labels])))


def test_rows_by_head() -> None:
    by_head = torch.arange(6)  # q0 k0 v0 q1 k1 v1
    form = rows(2)
    assert form.read([by_head]).tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(form.write(form.read([by_head]), 1)[0], by_head)


def test_foreign_tensors_are_refused() -> None:
    tensors = to_guided(network(), True)
    with pytest.raises(CheckpointError, match="missing"):
        load_guided(network(), {key: value for key, value in tensors.items() if key != "out.2.bias"}, True)
    with pytest.raises(CheckpointError, match="unknown"):
        load_guided(network(), {**tensors, "betas": torch.zeros(1)}, True)
    with pytest.raises(CheckpointError, match="no class"):
        to_guided(network(), True, torch.ones(3, 128))
