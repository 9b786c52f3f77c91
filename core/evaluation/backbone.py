"""What an evaluation must know of a domain: how its x are seen, and a network that makes features of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]  # views (B, ...) -> the same, changed at random by torch's global generator


def unchanged(views: Tensor) -> Tensor:
    """The views themselves."""
    return views


@dataclass(frozen=True)
class Backbone:
    """How a domain's examples become features.

    ``view`` gets a batch, or samples as "x" with their conditions, and makes of it one tensor, small enough to keep
    thousands of. ``network`` makes an untrained network (B, ...) -> (B, D) for views like the given ones. Where
    ``published`` is true the views are features already, of a network that others trained, and ``texts`` are captions
    (N,) -> (N, D) of length 1 in the same space, if it has one.

    ``details`` are a few numbers (B, K) of the finest detail of views, such as how sharp they are, for which judges of
    what is shown have no eye.
    """

    view: Callable[[Mapping[str, Any]], Tensor]
    network: Callable[[Tensor], nn.Module]
    augment: Change = unchanged  # leaves labels and captions true
    distort: Change = unchanged  # stronger: two distortions of an example are all that a judge without labels learns of
    width: int = 64  # D
    noun: str = "example"
    published: bool = False
    texts: Callable[[Sequence[str]], Tensor] | None = None
    details: Callable[[Tensor], Tensor] | None = None


def perceptron(view: Tensor, width: int = 128, features: int = 64) -> nn.Module:
    """A network of vectors (B, ...), flattened: what is at hand where a domain has nothing better."""
    inputs = view[0].numel()
    layers = (nn.Flatten(), nn.BatchNorm1d(inputs), nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, features))
    return nn.Sequential(*layers)
