"""guided-diffusion's keys, both orders of attention's rows, against an independent reading of its blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.cond import Cond
from core.nn.unet import UNet
from core.weights.checkpoint import CheckpointError
from image.published.layouts.guided import load_guided, rows, to_guided
from tests.support.parameters import randomise

Heads = Callable[[int], int]
TIME = torch.tensor([3.0, 801.0])


def network(biggan: bool = True, scale_shift: bool = True, head_width: int | None = 16, heads: int = 1) -> UNet:
    """Three levels, the finest half as wide as the features of time."""
    net = UNet(
        3, 6, 64, (0.5, 1, 1.5), 2, (1, 2), head_width=head_width, heads=heads, scale_shift=scale_shift, biggan=biggan
    )
    return randomise(net)


class Reader:
    """guided-diffusion's forward pass, written from its key layout alone."""

    def __init__(self, tensors: dict[str, Tensor], by_head: bool, heads: Heads, scale_shift: bool) -> None:
        self.t, self.by_head, self.heads_of, self.scale_shift = tensors, by_head, heads, scale_shift

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
        heads = self.heads_of(channels)
        width = channels // heads
        if self.by_head:
            q, k, v = qkv.reshape(batch * heads, 3 * width, -1).split(width, dim=1)
        else:
            q, k, v = (part.reshape(batch * heads, width, -1) for part in qkv.chunk(3, dim=1))
        scale = 1 / math.sqrt(math.sqrt(width))
        weight = torch.einsum("bct,bcs->bts", q * scale, k * scale).softmax(dim=-1)
        h = torch.einsum("bts,bcs->bct", weight, v).reshape(batch, channels, -1)
        h = F.conv1d(h, self.t[f"{name}.proj_out.weight"], self.t[f"{name}.proj_out.bias"])
        return x + h.reshape(x.shape)

    def stage(self, name: str, h: Tensor, e: Tensor, resample: str = "") -> Tensor:
        """The modules ``name.0``, ``name.1``, ...: a block that halves is the first, one that doubles comes later."""
        for place in itertools.count():
            part = f"{name}.{place}"
            if f"{part}.in_layers.0.weight" in self.t:
                h = self.block(part, h, e, resample if (place == 0) == (resample == "down") else "")
            elif f"{part}.qkv.weight" in self.t:
                h = self.attention(part, h)
            elif f"{part}.op.weight" in self.t:
                h = self.conv(f"{part}.op", h, stride=2)
            elif f"{part}.conv.weight" in self.t:
                h = self.conv(f"{part}.conv", F.interpolate(h, scale_factor=2))
            else:
                return h
        raise AssertionError

    def __call__(self, x: Tensor, labels: Tensor, blocks: int) -> Tensor:
        half = self.t["time_embed.0.weight"].shape[1] // 2
        angles = TIME[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
        e = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))))
        e = e + self.t["label_emb.weight"][labels]
        states = [self.conv("input_blocks.0.0", x)]
        places = 1 + max(int(key.split(".")[1]) for key in self.t if key.startswith("input_blocks."))
        for place in range(1, places):
            resample = "" if place % (blocks + 1) else "down"
            states.append(self.stage(f"input_blocks.{place}", states[-1], e, resample))
        h = self.stage("middle_block", states[-1], e)
        for place in range(places):
            resample = "" if (place + 1) % (blocks + 1) else "up"
            h = self.stage(f"output_blocks.{place}", torch.cat([h, states.pop()], 1), e, resample)
        return self.conv("out.2", F.silu(self.norm("out.0", h)))


@torch.no_grad()
@pytest.mark.parametrize("by_head", [True, False])
@pytest.mark.parametrize(
    ("biggan", "scale_shift", "heads"), [(True, True, None), (True, True, 4), (True, False, None), (False, False, None)]
)
def test_keys_mean_what_the_original_means(by_head: bool, biggan: bool, scale_shift: bool, heads: int | None) -> None:
    net = network(biggan, scale_shift, 16 if heads is None else None, heads or 1)
    table = torch.cat([torch.randn(5, 256) * 0.1, torch.zeros(1, 256)])
    labels = torch.tensor([4, 0])
    tensors = to_guided(net, by_head, table)
    x = torch.randn(2, 3, 8, 8)
    output = net(x, TIME, Cond(vector=table[labels]))

    def heads_of(channels: int) -> int:
        return channels // 16 if heads is None else heads

    expected = Reader(tensors, by_head, heads_of, scale_shift)(x, labels, blocks=2)
    assert expected.std() > 0.1
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    wrong = Reader(tensors, not by_head, heads_of, scale_shift)(x, labels, blocks=2)
    assert (wrong - expected).abs().max() > 1e-2

    again = network(biggan, scale_shift, 16 if heads is None else None, heads or 1)
    loaded = load_guided(again, tensors, by_head)
    assert loaded is not None and torch.equal(loaded, table)
    assert torch.equal(again(x, TIME, Cond(vector=table[labels])), output)


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
