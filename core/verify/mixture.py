"""Gaussian mixtures, whose every diffusion quantity has a closed form: the reference that samplers are compared with.

With data ``sum_k w_k N(m_k, C_k)`` the law at a level is ``sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I)``, and

    E[x0 | x_t] = sum_k r_k (m_k + alpha C_k (alpha^2 C_k + sigma^2 I)^-1 (x_t - alpha m_k))

with r_k the probability of component k given x_t. Covariances are kept as eigenvectors and variances, so that every
inverse is a division and alpha = 0, sigma = 0 and components of zero variance (points) are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, Estimate
from core.random import Stream, normal, uniform
from core.schedule import Schedule

TINY = 1e-200  # below every variance that is not zero


class Mixture:
    """A Gaussian mixture over samples of any shape, in float64."""

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor | None = None,
        weights: Tensor | None = None,
        classes: Sequence[int] | None = None,
    ) -> None:
        """means (K, *shape); covariances: variances (K, *shape), matrices (K, D, D) or None for points; weights (K,).

        classes: the label of each component, for ``labelled``; by default every component is a class of its own.
        Raises ValueError where the shapes do not fit or a variance or weight is negative.
        """
        self.shape = tuple(means.shape[1:])
        self.means = means.detach().double().flatten(1)  # (K, D)
        count, size = self.means.shape
        weights = torch.ones(count) if weights is None else weights
        if weights.shape != (count,) or bool((weights < 0).any()) or not bool(weights.sum() > 0):
            raise ValueError(f"weights must be {count} numbers, none negative and not all zero")
        self.weights = weights.double() / weights.double().sum()  # (K,)
        self.basis: Tensor | None = None  # (K, D, D), eigenvectors in columns
        if covariances is None or covariances.shape == means.shape:
            given = torch.zeros_like(means) if covariances is None else covariances
            self.variances = given.double().flatten(1)  # (K, D)
        elif covariances.shape == (count, size, size):
            self.variances, self.basis = torch.linalg.eigh(covariances.double())
            # eigh leaves rounding below zero where the covariance is singular.
            rounding = 1e-12 * self.variances.abs().amax(1, keepdim=True)
            self.variances = torch.where(self.variances.abs() < rounding, 0.0, self.variances)
        else:
            raise ValueError(f"covariances must be variances {tuple(means.shape)} or matrices {(count, size, size)}")
        if bool((self.variances < 0).any()):
            raise ValueError("covariances must have no negative eigenvalue")
        self.classes = torch.arange(count) if classes is None else torch.tensor(classes)

    def denoiser(self, schedule: Schedule) -> Bound:
        """E[x0 | x_t] on a schedule, unconditional."""
        return Exact(self, schedule).bind()

    def labelled(self, labels: Tensor) -> Cond:
        """The condition that x0 is of class ``labels[i]``, labels (B,): a vector (B, K) of the components allowed."""
        return Cond(vector=(labels[:, None] == self.classes).double())

    def clean(self, x: Tensor, alpha: Tensor, sigma: Tensor, allowed: Tensor | None = None) -> Tensor:
        """E[x0 | x_t = x]: x (B, *shape), alpha and sigma () or (B,), allowed (B, K) -> (B, *shape)."""
        alpha, turned, variance = self._turned(x, alpha, sigma)
        shrink = alpha * self.variances / variance  # (B | 1, K, D)
        centres = self.means + self._turn_back(shrink * turned)  # (B, K, D)
        return self._mix(turned, variance, allowed, centres).view(x.shape).to(x)

    def score(self, x: Tensor, alpha: Tensor, sigma: Tensor, allowed: Tensor | None = None) -> Tensor:
        """The gradient of log p(x_t): x (B, *shape) -> (B, *shape)."""
        _, turned, variance = self._turned(x, alpha, sigma)
        pulls = -self._turn_back(turned / variance)  # (B, K, D)
        return self._mix(turned, variance, allowed, pulls).view(x.shape).to(x)

    def log_density(self, x: Tensor, alpha: Tensor, sigma: Tensor, allowed: Tensor | None = None) -> Tensor:
        """log p(x_t): x (B, *shape) -> (B,), in nats."""
        _, turned, variance = self._turned(x, alpha, sigma)
        prior = self._prior(allowed)
        constant = math.log(2 * math.pi) * self.means.shape[1] / 2
        return (self._logits(turned, variance, prior).logsumexp(1) - prior.sum(1).log() - constant).to(x)

    def sample(self, count: int, seed: int = 0, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """Exact samples at a level, (count, *shape) float64; sample i is sample i."""
        rows = range(count)
        edges = self.weights.cumsum(0)
        which = torch.searchsorted(edges / edges[-1], uniform(seed, rows, Stream.LABEL, 0), right=True)
        inner = normal(seed, rows, Stream.CODEC, 0, self.means.shape[1:]) * self.variances[which].sqrt()
        if self.basis is not None:
            inner = torch.einsum("bij,bj->bi", self.basis[which], inner)
        noise = normal(seed, rows, Stream.NOISE, 0, self.means.shape[1:])
        return (alpha * (self.means[which] + inner) + sigma * noise).view(count, *self.shape)

    def mean(self, alpha: float = 1.0) -> Tensor:
        """The mean at a level, of the shape of a sample."""
        return (alpha * (self.weights @ self.means)).view(self.shape)

    def covariance(self, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """The covariance (D, D) of the flattened samples at a level."""
        basis = torch.eye(self.means.shape[1], dtype=torch.float64) if self.basis is None else self.basis
        within = (basis * self.variances[:, None, :]) @ basis.mT  # (K, D, D)
        centred = self.means - self.weights @ self.means
        data = torch.einsum("k,kij->ij", self.weights, within) + (self.weights * centred.T) @ centred
        return alpha**2 * data + sigma**2 * torch.eye(len(data), dtype=torch.float64)

    def _turned(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha (B | 1, 1, 1); x less each mean, in each eigenbasis (B, K, D); the variances there (B | 1, K, D)."""
        alpha, sigma = (value.double().to("cpu").view(-1, 1, 1) for value in (alpha, sigma))
        from_means = x.double().cpu().flatten(1)[:, None] - alpha * self.means
        turned = from_means if self.basis is None else torch.einsum("kij,bki->bkj", self.basis, from_means)
        return alpha, turned, (alpha**2 * self.variances + sigma**2).clamp(min=TINY)

    def _turn_back(self, turned: Tensor) -> Tensor:
        return turned if self.basis is None else torch.einsum("kij,bkj->bki", self.basis, turned)

    def _prior(self, allowed: Tensor | None) -> Tensor:
        """Weights (B | 1, K) of the components allowed."""
        return self.weights[None] if allowed is None else self.weights * allowed.double().cpu()

    def _logits(self, turned: Tensor, variance: Tensor, prior: Tensor) -> Tensor:
        """log of prior times density, less the constant: (B, K)."""
        return prior.log() - (turned**2 / variance + variance.log()).sum(2) / 2

    def _mix(self, turned: Tensor, variance: Tensor, allowed: Tensor | None, values: Tensor) -> Tensor:
        """The mean of values (B, K, D) over the components, given x."""
        share = self._logits(turned, variance, self._prior(allowed)).softmax(1)
        return torch.einsum("bk,bkd->bd", share, values)


@dataclass(frozen=True)
class Exact:
    """A mixture's exact denoiser on a schedule; ``Cond.vector`` (B, K), if given, says which components are allowed."""

    mixture: Mixture
    schedule: Schedule

    def bind(self, cond: Cond = Cond()) -> Bound:
        """Fix the condition."""

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            alpha, sigma = self.schedule(t.double())
            return Estimate(self.mixture.clean(x, alpha, sigma, cond.vector))

        return Bound(self.schedule, estimate)
