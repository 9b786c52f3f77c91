"""Noise schedules: t -> (alpha, sigma) with ``x_t = alpha x0 + sigma eps``.

Time is continuous, grows with noise, and is in a checkpoint's own units: the index of a DDPM table, EDM's sigma, the
[0, 1] of a flow. Every schedule is computed in the dtype of ``t`` and is exact at its ends: sigma = 0 is clean data and
alpha = 0, where a schedule reaches it, is pure noise. ``time`` inverts the ratio sigma / alpha, so that
``schedule.time(zero)`` is the time of clean data on every schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """A path from data to noise."""

    @property
    def cleanest(self) -> float:
        """The cleanest time at which a network is asked; samplers step from here to exact data."""

    @property
    def noisiest(self) -> float:
        """The time at which sampling starts."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma, each of the shape of t."""

    def time(self, ratio: Tensor) -> Tensor:
        """The time at which sigma / alpha equals ``ratio``; 0 gives the time of clean data."""


def log_snr(schedule: Schedule, t: Tensor) -> Tensor:
    """log(alpha^2 / sigma^2), +inf at clean data and -inf at pure noise."""
    alpha, sigma = schedule(t)
    return 2 * (alpha.log() - sigma.log())


def signal_and_noise(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """The variance-preserving (alpha, sigma) of a log-SNR, exact at both infinities."""
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def linear_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """DDPM's betas, equally spaced (2006.11239, section 4)."""
    return torch.linspace(first, last, steps, dtype=torch.float64, device="cpu")


def scaled_linear_betas(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """Latent diffusion's betas, whose square roots are equally spaced (2112.10752)."""
    return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64, device="cpu") ** 2


def cosine_betas(steps: int = 1000, offset: float = 0.008, limit: float = 0.999) -> Tensor:
    """Improved DDPM's cosine betas, clipped at ``limit`` (2102.09672, equation 17)."""
    edge = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
    alpha_bar = ((edge + offset) / (1 + offset) * math.pi / 2).cos() ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=limit)


def sigmoid_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """GeoDiff's betas, a sigmoid ramp over [-6, 6] (2203.02923)."""
    return torch.linspace(-6, 6, steps, dtype=torch.float64, device="cpu").sigmoid() * (last - first) + first


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha_bar) so that the last step is pure noise (2305.08891, algorithm 1)."""
    root = (1 - betas.double()).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root**2
    return torch.cat([1 - alpha_bar[:1], 1 - alpha_bar[1:] / alpha_bar[:-1]])


class Discrete:
    """A table of betas made continuous.

    Time t is the index of the table; t = -1 is clean data. Between its entries log-SNR is linear; on the way to a
    clean first or a pure-noise last entry, where log-SNR is infinite, sigma / alpha or its inverse is linear instead.
    """

    def __init__(self, betas: Tensor) -> None:
        """betas: (steps,) in (0, 1], of which only the last may be 1. Raises ValueError otherwise."""
        betas = betas.double()
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas <= 1)).all()) or betas[:-1].max() >= 1:
            raise ValueError(
                "betas must be a 1-d table of at least two numbers in (0, 1), of which only the last may be 1"
            )
        self.alpha_bar = (1 - betas).cumprod(0)  # (steps,)
        self.steps = len(betas)
        self.cleanest = 0.0
        self.noisiest = float(self.steps - 1)
        clean = torch.zeros(1, dtype=torch.float64, device="cpu")
        log_signal = torch.cat([clean, (1 - betas).log().cumsum(0)])  # (steps + 1,)
        self._log_snr = log_signal - (-log_signal.expm1()).log()

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at an index t in [-1, steps - 1]; times outside are clamped."""
        table = self._log_snr.to(t.device)
        place = (t.double() + 1).clamp(0, self.steps)
        low = place.floor().long().clamp(max=self.steps - 1)
        weight = place - low
        below, above = table[low], table[low + 1]
        middle = torch.lerp(below, above, weight)
        clean_side = -2 * (weight.log() - above / 2)
        noise_side = 2 * ((1 - weight).log() + below / 2)
        value = torch.where(below.isinf(), clean_side, torch.where(above.isinf(), noise_side, middle))
        alpha, sigma = signal_and_noise(value)
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def time(self, ratio: Tensor) -> Tensor:
        """The (fractional) index at which sigma / alpha equals ``ratio``, clamped to the table."""
        table = self._log_snr.to(ratio.device)
        value = -2 * ratio.double().log()
        high = torch.searchsorted(-table, -value).clamp(1, self.steps)
        below, above = table[high - 1], table[high]
        middle = (value - below) / (above - below)
        clean_side = ((above - value) / 2).exp()
        noise_side = 1 - ((value - below) / 2).exp()
        weight = torch.where(below.isinf(), clean_side, torch.where(above.isinf(), noise_side, middle))
        return (high - 2 + weight.clamp(0, 1)).to(ratio.dtype)


@dataclass(frozen=True)
class VP:
    """The variance-preserving SDE with linear beta(t) on [0, 1] (2011.13456, equation 33)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    cleanest: float = 1e-3
    noisiest: float = 1.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        decay = t**2 * (self.beta_max - self.beta_min) / 2 + t * self.beta_min
        return (-decay / 2).exp(), (-(-decay).expm1()).sqrt()

    def time(self, ratio: Tensor) -> Tensor:
        return _beta_time((ratio**2).log1p(), self.beta_min, self.beta_max)


@dataclass(frozen=True)
class SubVP:
    """The sub-variance-preserving SDE: VP's alpha with sigma = 1 - alpha^2 (2011.13456, equation 29)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    cleanest: float = 1e-3
    noisiest: float = 1.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        decay = t**2 * (self.beta_max - self.beta_min) / 2 + t * self.beta_min
        return (-decay / 2).exp(), -(-decay).expm1()

    def time(self, ratio: Tensor) -> Tensor:
        return _beta_time(2 * (ratio / 2).asinh(), self.beta_min, self.beta_max)


def _beta_time(decay: Tensor, beta_min: float, beta_max: float) -> Tensor:
    """The t at which the integral of beta, ``(beta_max - beta_min) t^2 / 2 + beta_min t``, equals ``decay``."""
    return 2 * decay / (beta_min + (beta_min**2 + 2 * (beta_max - beta_min) * decay).sqrt())


@dataclass(frozen=True)
class VE:
    """The variance-exploding SDE: alpha = 1, sigma geometric in t on [0, 1] (2011.13456, equation 30).

    Clean data lies at t = -inf, where sigma is exactly 0.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    cleanest: float = 1e-5
    noisiest: float = 1.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * (t * math.log(self.sigma_max / self.sigma_min)).exp()

    def time(self, ratio: Tensor) -> Tensor:
        return (ratio / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM:
    """alpha = 1 and sigma = t (2206.00364, table 1); the ends are those of its sampler."""

    cleanest: float = 0.002
    noisiest: float = 80.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t

    def time(self, ratio: Tensor) -> Tensor:
        return ratio


@dataclass(frozen=True)
class Flow:
    """The straight path ``x_t = (1 - u) x0 + u eps`` of rectified flow (2209.03003).

    ``u = shift t / (1 + (shift - 1) t)`` moves more of [0, 1] to high noise, as large images want (2403.03206,
    equation 23); with shift 1, the default, time is sigma itself. ``shift_from_mu`` gives Flux's shift.
    """

    shift: float = 1.0
    cleanest: float = 1e-3
    noisiest: float = 1.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        scale = 1 + (self.shift - 1) * t
        return (1 - t) / scale, self.shift * t / scale

    def time(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + self.shift / ratio)


def shift_from_mu(tokens: int, low: tuple[int, float] = (256, 0.5), high: tuple[int, float] = (4096, 1.15)) -> float:
    """Flux's flow shift exp(mu), with mu linear in the number of image tokens through (tokens, mu) low and high."""
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return math.exp(low[1] + slope * (tokens - low[0]))


@dataclass(frozen=True)
class Cosine:
    """The continuous cosine path on [0, 1], its log-SNR moved by ``2 log shift`` (2301.11093, section 3.1).

    ``shift`` is below 1 for images larger than the reference resolution: reference / resolution.
    """

    shift: float = 1.0
    cleanest: float = 1e-3
    noisiest: float = 1.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self.shift * ((1 - t) * (math.pi / 2)).sin()
        sigma = (t * (math.pi / 2)).sin()
        size = torch.hypot(alpha, sigma)
        return alpha / size, sigma / size

    def time(self, ratio: Tensor) -> Tensor:
        return (self.shift * ratio).atan() * (2 / math.pi)


@dataclass(frozen=True)
class Trigonometric:
    """alpha = cos t, sigma = sin t for t in [0, pi / 2]: TrigFlow's path (2410.11081)."""

    cleanest: float = 1e-3
    noisiest: float = math.pi / 2

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return (math.pi / 2 - t).sin(), t.sin()

    def time(self, ratio: Tensor) -> Tensor:
        return ratio.atan()
