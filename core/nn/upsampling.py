"""A grid doubled by repeating every value and then convolved, in one step and without the large grid.

Along each axis two of the three weights (a, b, c) of a convolution meet the same value, once it is repeated. So it is a
transposed convolution of stride 2 of the small grid, with the four weights (c, b + c, a + b, a): 4 products for each
place of the large grid instead of 9 in two dimensions, 8 instead of 27 in three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

MANY = 1024
"""Places of the small grid, over the batch, from which on less arithmetic outweighs time and memory for new weights."""


def upsample_conv(x: Tensor, conv: nn.Module) -> Tensor:
    """``conv`` of the doubled x: (B, C, *grid) -> (B, out, *doubled grid)."""
    if x.device.type == "cpu" and _can_be_transposed(conv) and (_added_once() or x[:, 0].numel() >= MANY):
        return TRANSPOSED[x.ndim - 2](x, _four_weights(conv.weight), conv.bias, stride=2, padding=1)
    out: Tensor = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    return out


def _can_be_transposed(conv: nn.Module) -> TypeGuard[nn.Conv1d | nn.Conv2d | nn.Conv3d]:
    """Whether it is a convolution of size 3 in one group, padded with zeros, and nothing such as a LoRA hooks on it."""
    return (
        isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        and (set(conv.kernel_size), set(conv.stride), set(conv.dilation)) == ({3}, {1}, {1})
        and (conv.padding, conv.padding_mode, conv.groups) == ((1,) * len(conv.kernel_size), "zeros", 1)
        and not (conv._forward_hooks or conv._forward_pre_hooks)
    )


def _added_once() -> bool:
    """Whether a compiler adds the weights up, once and for all, for they are frozen (see ``core.systems.compiled``)."""
    return torch.compiler.is_compiling() and not torch.is_grad_enabled()


def _four_weights(weight: Tensor) -> Tensor:
    """(out, C, 3, ...) -> (C, out, 4, ...)."""
    weight = weight.transpose(0, 1)
    for axis in range(2, weight.ndim):
        a, b, c = weight.unbind(axis)
        weight = torch.stack([c, b + c, a + b, a], axis)
    return weight
