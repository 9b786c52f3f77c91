"""Parts of one sample told different things: each part is denoised under its own condition, and where parts overlap
their estimates are averaged (2302.08113, equation 5):

    x0 = sum_i w_i x0_i / sum_i w_i            x0_i = E[x0 | x_t on part i, cond_i]

Parts may be spans of places, so that a sequence is longer than any the model has seen, or all of x weighed by where
each condition holds, such as the limbs of a body (2208.15001, section 3.4). Samplers need no change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bindable, Bound, Estimate


@dataclass(frozen=True)
class Part:
    """Places ``start`` to ``start + N`` of the first axis of x, what they are told, and how much that counts there."""

    cond: Cond
    weight: Tensor  # (1, N, ...), broadcasts to these places of x (B, N, ...); not negative
    start: int = 0


def in_parts(denoiser: Bindable, parts: Sequence[Part]) -> Bound:
    """The denoiser of samples made of parts; costs an evaluation for each part.

    Raises ValueError, when it is first asked, for a place of x that no part covers or a part that ends beyond it.
    """
    bounds = [denoiser.bind(part.cond) for part in parts]

    def estimate(x: Tensor, t: Tensor) -> Estimate:
        total, share = torch.zeros_like(x), torch.zeros_like(x[:1])
        for part, bound in zip(parts, bounds):
            span = slice(part.start, part.start + part.weight.shape[1])
            if part.start < 0 or span.stop > x.shape[1]:
                raise ValueError(f"a part ends at place {span.stop} of a sample with {x.shape[1]}: make it shorter")
            weight = part.weight.to(x)
            total[:, span] += weight * bound(x[:, span], t)
            share[:, span] += weight
        if not bool((share > 0).all()):
            raise ValueError("there is a place about which no part says anything: let the parts cover the whole sample")
        return Estimate(total / share)

    return Bound(denoiser.schedule, estimate)


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
