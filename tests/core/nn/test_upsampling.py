"""Doubling and convolving in one step gives what the two steps give, in values and in gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn import upsampling
from core.nn.lora import Addition, AttachedLoRAs, LoRA
from core.nn.upsampling import upsample_conv

KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SHAPES = {1: (2, 3, 600), 2: (2, 3, 25, 24), 3: (2, 3, 7, 9, 10)}


@pytest.fixture
def transposed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The dimensions of every transposed convolution that was made."""
    made: list[int] = []
    four_weights = upsampling._four_weights

    def counted(weight: Tensor) -> Tensor:
        made.append(weight.ndim - 2)
        return four_weights(weight)

    monkeypatch.setattr(upsampling, "_four_weights", counted)
    return made


def in_two_steps(x: Tensor, conv: nn.Module) -> Tensor:
    out: Tensor = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    return out


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_one_step_equals_two(dims: int, bias: bool, transposed: list[int]) -> None:
    torch.manual_seed(0)
    conv = KINDS[dims](3, 5, 3, padding=1, bias=bias, dtype=torch.float64)
    grads = []
    for method in (upsample_conv, in_two_steps):
        x = torch.randn(SHAPES[dims], dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        conv.zero_grad()
        out = method(x, conv)
        out.sin().sum().backward()
        grads.append([out, x.grad, *(value.grad.clone() for value in conv.parameters())])
    assert transposed == [dims]
    for one, other in zip(*grads):
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-12)


def test_forward_derivatives_pass_through(transposed: list[int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1, dtype=torch.float64)
    x, v = torch.randn(2, *SHAPES[2], dtype=torch.float64)
    _, one = torch.func.jvp(lambda x: upsample_conv(x, conv), (x,), (v,))
    assert transposed
    assert torch.allclose(one, F.conv2d(F.interpolate(v, scale_factor=2.0), conv.weight, padding=1), atol=1e-12)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(3, 6, 3, padding=1, groups=3),
        nn.Conv2d(3, 6, 3, padding=1, stride=2),
        nn.Conv2d(3, 6, 3, padding=2, dilation=2),
        nn.Conv2d(3, 6, 3),
        nn.Conv2d(3, 6, 5, padding=2),
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh()),
    ],
)
def test_other_layers_take_two_steps(conv: nn.Module, transposed: list[int]) -> None:
    x = torch.randn(SHAPES[2])
    assert torch.equal(upsample_conv(x, conv), in_two_steps(x, conv))
    assert not transposed


def test_few_places_take_two_steps(transposed: list[int]) -> None:
    conv = nn.Conv2d(3, 6, 3, padding=1)
    upsample_conv(torch.randn(2, 3, 32, 15), conv)
    assert not transposed
    upsample_conv(torch.randn(2, 3, 32, 16), conv)
    assert transposed


def test_a_lora_on_the_layer_counts() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1))
    x = torch.randn(SHAPES[2])
    lora = LoRA({"0": [Addition(torch.randn(2, 3, 3, 3), torch.randn(6, 2))]})
    plain = upsample_conv(x, net[0])
    attached = AttachedLoRAs(net, [lora])
    adapted = upsample_conv(x, net[0])
    assert torch.equal(adapted, in_two_steps(x, net[0]))
    assert (adapted - plain).abs().max() > 0.1
    attached.fuse()
    assert torch.allclose(upsample_conv(x, net[0]), adapted, atol=1e-5)
