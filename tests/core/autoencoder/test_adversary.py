"""PatchGAN: what a verdict sees, what both sides minimise, and how their gradients are balanced."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.autoencoder.adversary import PatchDiscriminator, balance, hinge


def without_norms(judge: PatchDiscriminator) -> nn.Sequential:
    """A norm sees its whole map, which would hide what the convolutions reach."""
    return nn.Sequential(*[nn.Identity() if isinstance(layer, nn.GroupNorm) else layer for layer in judge.layers])


@pytest.mark.parametrize(("halvings", "reach"), [(1, 16), (2, 34), (3, 70)])
def test_a_verdict_sees_a_patch_of_the_published_size(halvings: int, reach: int) -> None:
    """70 x 70 with three halvings, 34 and 16 with less (1611.07004, appendix 6.1.2)."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 160, 160, requires_grad=True)
    verdict = without_norms(PatchDiscriminator(3, 8, halvings))(x)
    middle = verdict.shape[-1] // 2
    verdict[0, 0, middle, middle].backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert len(rows) == int(rows[-1] - rows[0]) + 1 == reach
    assert len(columns) == int(columns[-1] - columns[0]) + 1 == reach


def test_published_sizes() -> None:
    """64, 128, 256, 512 and 1 channels; 30 x 30 verdicts about 256 x 256."""
    judge = PatchDiscriminator()
    widths = [layer.weight.shape[:2] for layer in judge.layers if isinstance(layer, nn.Conv2d)]
    assert [tuple(width) for width in widths] == [(64, 3), (128, 64), (256, 128), (512, 256), (1, 512)]
    with torch.device("meta"):
        assert PatchDiscriminator()(torch.zeros(2, 3, 256, 256)).shape == (2, 1, 30, 30)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_any_number_of_dimensions(dims: int) -> None:
    judge = PatchDiscriminator(2, 8, 2, dims=dims)
    assert judge(torch.randn(2, 2, *[16] * dims)).shape == (2, 1, *[2] * dims)


def test_a_verdict_does_not_depend_on_what_else_is_judged() -> None:
    torch.manual_seed(0)
    judge, x = PatchDiscriminator(3, 8, 2), torch.randn(4, 3, 24, 24)
    torch.testing.assert_close(judge(x)[1:2], judge(x[1:2]))


def test_frozen_verdicts_teach_what_is_judged_and_not_the_judge() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(3, 8, 1)
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    (expected,) = torch.autograd.grad(judge(x).sum(), x)
    judge.frozen(x).sum().backward()
    torch.testing.assert_close(x.grad, expected)
    assert all(parameter.grad is None for parameter in judge.parameters())


def test_the_hinge_by_hand() -> None:
    real, made = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 1.0], requires_grad=True)
    assert float(hinge(real, made).detach()) == pytest.approx(((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3) / 2)
    hinge(real, made).backward()
    assert made.grad is not None
    # A verdict that is already below -1 pulls no more; at the others the slope is 1 / 3, halved.
    torch.testing.assert_close(made.grad, torch.tensor([0.0, 1 / 6, 1 / 6]))


def test_the_balance_is_a_ratio_of_gradients() -> None:
    last = torch.tensor([3.0, 4.0], requires_grad=True)
    reconstruction, adversarial = last.square().sum(), (2 * last).sum()  # gradients (6, 8) and (2, 2)
    found = balance(reconstruction, adversarial, last)
    assert float(found) == pytest.approx(10 / 8**0.5, rel=1e-3) and not found.requires_grad
    assert float(balance(1e6 * last.sum(), 0 * last.sum(), last)) == 1e4  # a judge that says nothing counts at most so
