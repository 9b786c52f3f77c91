"""Parts of one sample under different conditions: each part is denoised under its own condition, and where parts
overlap their estimates are averaged (2302.08113, equation 5):

    x0 = sum_i w_i x0_i / sum_i w_i            x0_i = E[x0 | x_t on part i, cond_i]

Parts may be spans of places, so that a sequence is longer than any the model has seen, or all of x weighed by where
each condition holds, such as the limbs of a body (2208.15001, section 3.4). Samplers need no change.

Where parts know nothing of each other they drift apart. The same section adds to the noise the slope of how far its
estimates are apart, over the places that two parts share, which pulls x to where they agree:

    eps += correction grad_x sum_{i != j} |eps_i - eps_j|^2    or, as eps = (x - alpha x0) / sigma,
    x0  -= correction (alpha / sigma) grad_x sum_{i != j} |x0_i - x0_j|^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, DenoiserLike, Estimate, spread


@dataclass(frozen=True)
class Part:
    """Places ``start`` to ``start + N`` of the first axis of x, their condition, and its weight there."""

    cond: Cond
    weight: Tensor  # (1, N, ...), broadcasts to these places of x (B, N, ...); not negative
    start: int = 0

    @property
    def span(self) -> slice:
        """The places that it covers."""
        return slice(self.start, self.start + self.weight.shape[1])


def in_parts(denoiser: DenoiserLike, parts: Sequence[Part], correction: float = 0.0) -> Bound:
    """The denoiser of samples made of parts; costs an evaluation for each part, and their gradients with a correction.

    Raises ValueError for a correction that is negative, and, when it is first asked, for a place of x that no part
    covers or a part that ends beyond it.
    """
    if not correction >= 0:
        raise ValueError(f"parts are pulled together by a correction that is not negative, not by {correction}")
    bounds = [denoiser.bind(part.cond) for part in parts]

    def each(x: Tensor, t: Tensor) -> list[Tensor]:
        found = []
        for part, bound in zip(parts, bounds):
            span = part.span
            if span.start < 0 or span.stop > x.shape[1]:
                raise ValueError(f"a part ends at place {span.stop} of a sample with {x.shape[1]}: make it shorter")
            found.append(bound(x[:, span], t))
        return found

    def estimate(x: Tensor, t: Tensor) -> Estimate:
        if correction == 0 or len(parts) < 2:
            return Estimate(_average(x, parts, each(x, t)))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            found = each(leaf, t)
            (slope,) = torch.autograd.grad(_disagreement(parts, found), leaf)
        alpha, sigma = denoiser.schedule(t)
        clean = _average(x, parts, [value.detach() for value in found])
        return Estimate(clean - correction * spread(alpha / sigma, x) * slope)

    return Bound(denoiser.schedule, estimate)


def _average(x: Tensor, parts: Sequence[Part], found: Sequence[Tensor]) -> Tensor:
    """The estimates of the parts, averaged where they overlap."""
    total, share = torch.zeros_like(x), torch.zeros_like(x[:1])
    for part, clean in zip(parts, found):
        weight = part.weight.to(x)
        total[:, part.span] += weight * clean
        share[:, part.span] += weight
    if not bool((share > 0).all()):
        raise ValueError("there is a place about which no part says anything: let the parts cover the whole sample")
    return total / share


def _disagreement(parts: Sequence[Part], found: Sequence[Tensor]) -> Tensor:
    """How far the estimates are apart (): the squares of their differences, each pair both ways."""
    total = sum((clean.sum() * 0 for clean in found), torch.zeros(()))
    for (one, here), (other, there) in combinations(zip(parts, found), 2):
        first, last = max(one.start, other.start), min(one.span.stop, other.span.stop)
        if first < last:
            shared = here[:, first - one.start : last - one.start] - there[:, first - other.start : last - other.start]
            total = total + 2 * shared.square().sum()
    return total


def ramp(length: int, rise: int, fall: int) -> Tensor:
    """Weights (length,) that rise in a straight line over the first places and fall over the last ones.

    Where one part falls over as many places as the next one rises, their weights add up to 1. Raises ValueError for
    slopes that do not fit.
    """
    if min(rise, fall) < 0 or rise + fall > length:
        raise ValueError(f"overlaps of {rise} and {fall} places do not fit into a part of {length}: make it longer")
    up = torch.arange(1, rise + 1) / (rise + 1)
    down = torch.arange(fall, 0, -1) / (fall + 1)
    return torch.cat([up, torch.ones(length - rise - fall), down])
