"""The flat list of score_sde: an interpreter of its own walks the list, and our networks must say the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from image.nn.fir import BOX, FIR
from image.nn.ncsnpp import InputResidual, InputSkip, LogFourier, NCSNpp, Positional
from image.published.layouts.ncsnpp_original import from_original, to_original

WIDTHS, DEPTH, TIME = (8, 16, 16), 2, torch.tensor([0.5, 30.0])
VARIANTS = {
    "cifar_ve": lambda: NCSNpp(LogFourier(8), WIDTHS, DEPTH, (1,), FIR, progressive_input=InputResidual),
    "cifar_vp": lambda: NCSNpp(Positional(8), WIDTHS, DEPTH, (1,), BOX),
    "large_ve": lambda: NCSNpp(LogFourier(8), WIDTHS, DEPTH, (1,), FIR, progressive_input=InputSkip, progressive=True),
}
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def filtered(x: Tensor, before: int, after: int, gain: float = 1.0) -> Tensor:
    """Convolve an image padded with zeros with [1, 3, 3, 1] / 8 along both axes."""
    flat = F.pad(x, (before, after, before, after)).flatten(0, 1)[:, None]
    smooth = F.conv2d(F.conv2d(flat, TAPS.view(1, 1, 1, 4)), TAPS.view(1, 1, 4, 1))
    return gain * smooth.unflatten(0, x.shape[:2])[:, :, 0]


def halve(x: Tensor, fir: bool) -> Tensor:
    return filtered(x, 1, 1)[..., ::2, ::2] if fir else F.avg_pool2d(x, 2)


def double(x: Tensor, fir: bool) -> Tensor:
    if not fir:
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    zeros = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    zeros[..., ::2, ::2] = x
    return filtered(zeros, 2, 1, gain=4.0)


class Original:
    """The forward pass of models/ncsnpp.py, written from its description, on the list's own names."""

    def __init__(
        self, tensors: dict[str, Tensor], fir: bool, progressive_input: str, progressive: bool, fourier: bool
    ) -> None:
        self.tensors, self.fir, self.progressive_input, self.progressive, self.fourier = (
            tensors,
            fir,
            progressive_input,
            progressive,
            fourier,
        )
        self.next = 0

    def get(self, name: str) -> Tensor:
        return self.tensors[f"all_modules.{self.next}.{name}"]

    def step(self, result: Tensor) -> Tensor:
        self.next += 1
        return result

    def group(self, x: Tensor, name: str) -> Tensor:
        return F.group_norm(x, min(x.shape[1] // 4, 32), self.get(f"{name}weight"), self.get(f"{name}bias"), 1e-6)

    def convolve(self, x: Tensor, name: str, padding: int = 1, stride: int = 1) -> Tensor:
        return F.conv2d(x, self.get(f"{name}weight"), self.get(f"{name}bias"), stride, padding)

    def residual(self, x: Tensor, temb: Tensor, resample: Callable[[Tensor, bool], Tensor] | None = None) -> Tensor:
        h = F.silu(self.group(x, "GroupNorm_0."))
        if resample is not None:
            h, x = resample(h, self.fir), resample(x, self.fir)
        h = self.convolve(h, "Conv_0.")
        h = h + F.linear(F.silu(temb), self.get("Dense_0.weight"), self.get("Dense_0.bias"))[:, :, None, None]
        h = self.convolve(F.silu(self.group(h, "GroupNorm_1.")), "Conv_1.")
        if resample is not None or x.shape[1] != h.shape[1]:
            x = self.convolve(x, "Conv_2.", padding=0)
        return self.step((x + h) / math.sqrt(2))

    def attention(self, x: Tensor) -> Tensor:
        def nin(h: Tensor, i: int) -> Tensor:
            return torch.einsum("bchw,cd->bdhw", h, self.get(f"NIN_{i}.W")) + self.get(f"NIN_{i}.b")[:, None, None]

        h = self.group(x, "GroupNorm_0.")
        q, k, v = (nin(h, i) for i in range(3))
        w = torch.einsum("bchw,bcij->bhwij", q, k) * x.shape[1] ** -0.5
        w = w.flatten(3).softmax(-1).reshape(w.shape)
        return self.step((x + nin(torch.einsum("bhwij,bcij->bchw", w, v), 3)) / math.sqrt(2))

    def paint(self, h: Tensor) -> Tensor:
        h = self.step(F.silu(self.group(h, "")))
        return self.step(self.convolve(h, ""))

    def embed(self, time: Tensor) -> Tensor:
        if self.fourier:
            angles = self.step(time.log()[:, None] * self.get("W") * 2 * math.pi)
        else:
            angles = time[:, None] * torch.exp(-math.log(10000) * torch.arange(4) / 3)
        features = torch.cat([angles.sin(), angles.cos()], 1)
        first = self.step(F.linear(features, self.get("weight"), self.get("bias")))
        return self.step(F.linear(F.silu(first), self.get("weight"), self.get("bias")))

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        self.next = 0
        temb, pyramid, output = self.embed(time), x, None
        states = [self.step(self.convolve(x, ""))]
        for level in range(3):
            for _ in range(DEPTH):
                h = self.residual(states[-1], temb)
                states.append(self.attention(h) if level == 1 else h)
            if level < 2:
                h = self.residual(states[-1], temb, halve)
                if self.progressive_input == "input_skip":
                    pyramid = halve(pyramid, self.fir)
                    h = self.step(self.convolve(pyramid, "Conv_0.", padding=0)) + h
                elif self.progressive_input == "residual":
                    strided = self.convolve(filtered(pyramid, 2, 2), "Conv2d_0.", padding=0, stride=2)
                    h = pyramid = (self.step(strided) + h) / math.sqrt(2)
                states.append(h)
        h = self.residual(self.attention(self.residual(states[-1], temb)), temb)
        for level in (2, 1, 0):
            for _ in range(DEPTH + 1):
                h = self.residual(torch.cat([h, states.pop()], 1), temb)
            if level == 1:
                h = self.attention(h)
            if self.progressive:
                output = self.paint(h) if output is None else double(output, self.fir) + self.paint(h)
            if level:
                h = self.residual(h, temb, double)
        answer = output if output is not None else self.paint(h)
        assert self.next == 1 + max(int(key.split(".")[1]) for key in self.tensors)
        return answer / time[:, None, None, None] if self.fourier else answer


def randomised(net: NCSNpp, divides: bool) -> dict[str, Tensor]:
    """The list's names and shapes with random numbers in every tensor."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for key, value in to_original(net, divides).items():
        noise = torch.randn(value.shape, generator=generator)
        scale = value.ndim == 1 and key.endswith("weight")  # of a group normalisation
        tensors[key] = 1 + 0.1 * noise if scale else 0.08 * noise
    return tensors


def interpreter(variant: str, tensors: dict[str, Tensor]) -> Original:
    progressive_input = {"cifar_ve": "residual", "cifar_vp": "none", "large_ve": "input_skip"}[variant]
    ve = variant.endswith("ve")
    return Original(tensors, fir=ve, progressive_input=progressive_input, progressive=variant == "large_ve", fourier=ve)


@torch.no_grad()
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_flat_list_says_the_same(variant: str) -> None:
    net, divides = VARIANTS[variant]().eval(), variant.endswith("ve")
    tensors = randomised(net, divides)
    from_original(net, {f"module.{key}": value for key, value in tensors.items()}, divides)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = interpreter(variant, tensors)(x, TIME)
    predicted = -net(x, TIME) / TIME[:, None, None, None] if divides else net(x, TIME)
    assert expected.std() > 0.1
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-4)
    back = to_original(net, divides)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)


@torch.no_grad()
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_tensor_counts(variant: str) -> None:
    net, divides = VARIANTS[variant]().eval(), variant.endswith("ve")
    tensors = randomised(net, divides)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    from_original(net, tensors | {"sigmas": torch.ones(1000)}, divides)
    expected = net(x, TIME)
    for key in list(tensors)[::7]:
        with pytest.raises(ValueError, match="missing"):
            from_original(net, {name: value for name, value in tensors.items() if name != key}, divides)
    with pytest.raises(ValueError, match=r"all_modules\.999"):
        from_original(net, tensors | {"all_modules.999.weight": torch.zeros(1)}, divides)
    for i, key in list(enumerate(keys := sorted(tensors)))[::4]:
        alike = [k for k in keys[i + 1 :] if k.split(".")[2:] == key.split(".")[2:]]
        twins = [k for k in alike if tensors[k].shape == tensors[key].shape]
        # What is added to every key alike (NIN_1.b) the softmax does not see.
        if not twins or key.endswith("NIN_1.b"):
            continue
        from_original(net, tensors | {key: tensors[twins[0]], twins[0]: tensors[key]}, divides)
        assert (net(x, TIME) - expected).abs().max() > 1e-4, f"{key} and {twins[0]} were exchanged unnoticed"
