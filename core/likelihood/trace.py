"""The trace of a Jacobian: exact, or estimated by random probes, with as many where they are needed.

Hutchinson's estimate of div f is ``v . J v`` for random signs v; its variance is ``2 sum_{i != j} J_ij^2``. The
likelihood needs the integral of div f along a path that is known beforehand, so that every node of the quadrature has
probes of its own: the errors of the nodes are independent and average out, where one v for the whole path (as an
adaptive solver of the joint ODE needs, 1810.01367) would repeat its error at each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from scipy.special import ndtri
from torch import Tensor

from core.random import SamplingRNG


class Estimates(NamedTuple):
    """Unbiased estimates about a Jacobian J of each sample, (B, K) each, float64."""

    trace: Tensor  # of tr J
    square: Tensor  # of tr J J^T


class Trace(Protocol):
    """How the trace is found."""

    @property
    def probes(self) -> int:
        """Estimates that a node gets at first; at least two where they are random, for their spread."""

    def __call__(self, value: Tensor, argument: Tensor, node: int, probes: range) -> Estimates:
        """Estimates about d value / d argument, (B, ...) both, at a node of the path."""

    def fresh(self, number: int) -> Trace:
        """The same with other random numbers."""

    def more(self, spread: Tensor, size: int) -> Tensor:
        """How many further estimates each node wants (N,); spread (N, B): the deviation that one brings to the sum."""


@dataclass(frozen=True)
class ExactTrace:
    """The trace itself; one backward pass a dimension."""

    probes: int = 1

    def __call__(self, value: Tensor, argument: Tensor, node: int, probes: range) -> Estimates:
        flat = value.flatten(1)  # (B, D)
        trace, square = flat.new_zeros((2, len(flat), 1), dtype=torch.float64)
        for i, column in enumerate(flat.unbind(1)):
            row = torch.autograd.grad(column.sum(), argument, retain_graph=True)[0].flatten(1).double()
            trace += row[:, i, None]
            square += row.square().sum(1, keepdim=True)
        return Estimates(trace, square)

    def fresh(self, number: int) -> Trace:
        return self

    def more(self, spread: Tensor, size: int) -> Tensor:
        return torch.zeros(len(spread), dtype=torch.long)


@dataclass(frozen=True)
class Hutchinson:
    """Random sign vectors, two at each node and then as many as the error bar asks for.

    bar: the half width, in bits per dimension, of the 95 % bar that the probes may leave. most: probes a node, in the
    mean, beyond which the bar is left as wide as it is.
    """

    noise: SamplingRNG
    bar: float = 0.02
    most: int = 32
    probes: int = 2
    number: int = 0  # of the path, where several draw from one noise

    def __post_init__(self) -> None:
        if self.probes < 2:
            raise ValueError("an error bar needs at least two probes")

    def __call__(self, value: Tensor, argument: Tensor, node: int, probes: range) -> Estimates:
        first = (self.number * _NODES + node) * _PROBES
        found = [self._one(value, argument, first + part) for part in probes]
        trace, square = (torch.stack(kind, 1) for kind in zip(*found))
        return Estimates(trace, square)

    def _one(self, value: Tensor, argument: Tensor, part: int) -> tuple[Tensor, Tensor]:
        signs = self.noise.probe(value, part)
        row = torch.autograd.grad(value, argument, signs, retain_graph=True)[0]
        return (row * signs).flatten(1).sum(1).double(), row.double().square().flatten(1).sum(1)

    def fresh(self, number: int) -> Trace:
        return replace(self, number=number)

    def more(self, spread: Tensor, size: int) -> Tensor:
        """Neyman's allocation: the number of a node is proportional to the deviation of one estimate there."""
        wanted = self.bar * size * math.log(2) / ndtri(0.975)  # nats, the standard error of the sum
        typical = spread.square().mean(1).sqrt()
        worst = spread.square().sum(0).max() / typical.square().sum().clamp(min=1e-300)
        count = typical * typical.sum() * worst / wanted**2
        count = count * min(1.0, self.most * len(count) / max(float(count.sum()), 1e-300))
        return (count.ceil().long() - self.probes).clamp(min=0)


_NODES, _PROBES = 2**20, 2**20  # of a path and of a node at most
