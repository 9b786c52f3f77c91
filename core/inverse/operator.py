"""Linear measurements y = A x0: masks, blurs, averages, and any function that is linear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Operator(Protocol):
    """A linear map of samples (B, ...)."""

    def apply(self, x: Tensor) -> Tensor:
        """A x."""

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""


@dataclass(frozen=True)
class Mask:
    """What is seen through a mask: y is x where it is 1, and 0 elsewhere. It is its own adjoint and pseudo-inverse."""

    mask: Tensor  # broadcasts to x, of 0 and 1

    def apply(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self.mask.to(y)


@dataclass(frozen=True)
class Downsample:
    """Averages of blocks of ``factor`` places along each axis of the grid: (B, C, *grid) -> (B, C, *grid / factor)."""

    factor: int

    def apply(self, x: Tensor) -> Tensor:
        if any(length % self.factor for length in x.shape[2:]):
            raise ValueError(f"a grid of {tuple(x.shape[2:])} does not divide by {self.factor}: crop it")
        for axis in range(2, x.ndim):
            x = x.unflatten(axis, (-1, self.factor)).mean(axis + 1)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inverse(y) / self.factor ** (y.ndim - 2)

    def inverse(self, y: Tensor) -> Tensor:
        """The pseudo-inverse: every average repeated over its block."""
        for axis in range(2, y.ndim):
            y = y.repeat_interleave(self.factor, dim=axis)
        return y


@dataclass(frozen=True)
class Blur:
    """Convolution of the last two axes with a kernel (K, K) of odd size, on a torus."""

    kernel: Tensor

    def __post_init__(self) -> None:
        if self.kernel.ndim != 2 or any(length % 2 == 0 for length in self.kernel.shape):
            raise ValueError(f"a blur needs a kernel of two odd sizes, not {tuple(self.kernel.shape)}")

    def apply(self, x: Tensor) -> Tensor:
        return self._convolved(x, self.kernel)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._convolved(y, self.kernel.flip(0, 1))

    def _convolved(self, x: Tensor, kernel: Tensor) -> Tensor:
        high, wide = (length // 2 for length in kernel.shape)
        planes = x.reshape(-1, 1, *x.shape[-2:])
        padded = F.pad(planes, (wide, wide, high, high), mode="circular")
        return F.conv2d(padded, kernel.to(x)[None, None]).view(x.shape)


def gaussian_kernel(size: int, deviation: float) -> Tensor:
    """A normalised Gaussian (size, size), float64."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-((place / deviation) ** 2) / 2)
    kernel = line[:, None] * line
    return kernel / kernel.sum()


@dataclass(frozen=True)
class LinearOperator:
    """Any linear map that torch can differentiate; its adjoint comes by differentiation."""

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]  # of one x

    def apply(self, x: Tensor) -> Tensor:
        return self.function(x)

    def adjoint(self, y: Tensor) -> Tensor:
        zeros = torch.zeros(len(y), *self.shape, dtype=y.dtype, device=y.device)
        back = torch.func.vjp(self.function, zeros)[1]
        found: Tensor = back(y)[0]
        return found
