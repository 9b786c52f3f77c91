"""Predictions: what a network's output means.

The network is fed ``scale * x_t``; ``target`` is what its output should be; ``clean`` computes E[x0 | x_t] from the
output. ``gain`` is d clean / d output: a loss weight w defined in x0 space is ``w * gain^2`` in the space of the
output. alpha and sigma arrive already shaped to broadcast against x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Prediction(Protocol):
    """The meaning of a network's output."""

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What x_t is multiplied with before the network sees it."""

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network should say about ``alpha x + sigma noise``."""

    def clean(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x0, as the output tells it."""

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """d clean / d output."""


def _reject_zero(value: Tensor, message: str) -> None:
    # Only where the answer is on the host: reading it from an accelerator would stall every evaluation.
    if value.device.type == "cpu" and bool((value == 0).any()):
        raise ValueError(message)


def _alpha_is_zero(name: str) -> str:
    return f"{name} does not determine x0 at alpha = 0 (pure noise): use v, x0, velocity or F, or start the grid later"


@dataclass(frozen=True)
class Epsilon:
    """The noise eps (2006.11239)."""

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha)

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise

    def clean(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        _reject_zero(alpha, _alpha_is_zero("epsilon"))
        return (x_t - sigma * output) / alpha

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -sigma / alpha


@dataclass(frozen=True)
class X0:
    """The clean data itself."""

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha)

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x

    def clean(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha)


@dataclass(frozen=True)
class V:
    """``v = alpha eps - sigma x0`` (2202.00512, appendix D); off variance-preserving paths, of the normalised path."""

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha)

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha * noise - sigma * x) / torch.hypot(alpha, sigma)

    def clean(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        power = alpha**2 + sigma**2
        return alpha / power * x_t - sigma / power.sqrt() * output

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -sigma / torch.hypot(alpha, sigma)


@dataclass(frozen=True)
class FlowVelocity:
    """``u = eps - x0``, the velocity of the straight path (2209.03003; 2403.03206, equation 6)."""

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha)

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise - x

    def clean(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - sigma * output) / (alpha + sigma)

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -sigma / (alpha + sigma)


@dataclass(frozen=True)
class Score:
    """``-eps / sigma``, the gradient of log p(x_t) (2011.13456)."""

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha)

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        _reject_zero(sigma, "the score is infinite at sigma = 0 (clean data): train at sigma > 0")
        return -noise / sigma

    def clean(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        _reject_zero(alpha, _alpha_is_zero("the score"))
        return (x_t + sigma**2 * output) / alpha

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma**2 / alpha


@dataclass(frozen=True)
class F:
    """EDM's F: ``x0 = c_skip x_t + c_out F(c_in x_t)``, unit variance in and out (2206.00364, table 1).

    Written for any path; at alpha = 1 the coefficients are the paper's. ``sigma_data`` is the data's deviation.
    """

    sigma_data: float = 0.5

    def _size(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.hypot(alpha * self.sigma_data, sigma)

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return 1 / self._size(alpha, sigma)

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # (x0 - c_skip x_t) / c_out with the division by sigma carried out, so that sigma = 0 is exact.
        size = self._size(alpha, sigma)
        return sigma / (size * self.sigma_data) * x - alpha * self.sigma_data / size * noise

    def clean(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        size = self._size(alpha, sigma)
        return alpha * self.sigma_data**2 / size**2 * x_t + sigma * self.sigma_data / size * output

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma * self.sigma_data / self._size(alpha, sigma)


@dataclass(frozen=True)
class LearnedRange:
    """Another prediction plus a learned variance: the network's channels are [prediction, v] (2102.09672, equation 15).

    v in [-1, 1] mixes log beta and log beta-tilde; ``split`` returns both halves and every other method is the
    inner prediction's.
    """

    inner: Prediction = Epsilon()

    def split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2C, ...) -> prediction (B, C, ...) and mixing fraction ``(v + 1) / 2`` (B, C, ...)."""
        if output.shape[1] % 2:
            raise ValueError(f"a learned variance needs an even number of output channels, not {output.shape[1]}")
        mean, mix = output.chunk(2, dim=1)
        return mean, (mix + 1) / 2

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.inner.scale(alpha, sigma)

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.inner.target(x, noise, alpha, sigma)

    def clean(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.inner.clean(x_t, self.split(output)[0], alpha, sigma)

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.inner.gain(alpha, sigma)
