"""Which size of a family of networks to train, and how: the largest that the time can teach.

The held-out loss of a network of P parameters after S samples is near ``E + a / P^x + b / S^y`` (2203.15556, equation
10). The time fixes S for each size, as its measured cost says, so only the ratio of the two terms decides:

    minimise  P^-x + (r / S)^y          over the sizes that memory allows

with x, y and r measured (docs/own_data.md). A set of N examples bounds what repeating them can teach: the samples
beyond ``REPEATS`` times N count less and less, as ``N REPEATS (1 - exp(-S / (N REPEATS)))`` (2305.16264, equation 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from core.fit.cost import Cost
from core.sizes import Law

REPEATS = 60.0  # epochs of a small set after which more of them teach little
MEMORY = 0.8  # the share of the memory that a run may take at its highest
BATCHES = (8, 16, 32, 64, 128, 256, 512)
STEPS = 2000  # that a run should have before its batches grow: more, smaller steps teach a short run more
BASE = 300 * 2**20  # bytes of a process that has imported everything and trains nothing


@dataclass(frozen=True)
class Choice:
    """A size, its batch, and what it will see."""

    index: int  # among the sizes
    batch: int  # over all processes
    steps: int
    samples: int
    bytes: int  # that one process needs


def useful(samples: float, examples: int) -> float:
    """The samples of fresh data that so many of ``examples`` repeated ones are worth."""
    worth = REPEATS * examples
    return worth * -math.expm1(-samples / worth)


def batch_for(samples: float) -> int:
    """The largest batch that leaves a run of so many samples its steps."""
    return max([batch for batch in BATCHES if batch * STEPS <= samples] or [BATCHES[0]])


def choose(
    costs: Sequence[Cost],
    law: Law,
    examples: int,
    memory: int,
    processes: int,
    seconds: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
) -> Choice:
    """The best of the sizes, from small to large, for a time, a number of steps, or what ends first of both.

    memory: bytes that all processes share. Raises ValueError where not even the smallest size fits into it, and for a
    batch that the processes cannot share.
    """
    if seconds is None and steps is None:
        raise ValueError("give a time or a number of steps, or no network can be chosen")
    if batch is not None and batch % processes:
        raise ValueError(
            f"{processes} processes cannot share a batch of {batch}: give a multiple, or other --processes"
        )
    batches = (batch,) if batch is not None else [-(-size // processes) * processes for size in BATCHES]
    found: list[tuple[float, Choice]] = []
    for index, cost in enumerate(costs):
        choice = _at(index, cost, processes, int(MEMORY * memory / processes) - BASE, seconds, steps, batches)
        if choice is not None:
            found.append((law.loss(cost.parameters, useful(choice.samples, examples)), choice))
    if not found:
        need = processes * (BASE + costs[0].bytes(batches[0] // processes)) / MEMORY
        raise ValueError(
            f"the smallest network needs {need / 2**30:.1f} GiB of memory and there are {memory / 2**30:.1f}: "
            "free some, or give smaller data"
        )
    if seconds is None:
        # Steps alone would always take the largest: the largest is taken that so many samples are enough for.
        earned = [
            choice for _, choice in found if law.earns(costs[choice.index].parameters, useful(choice.samples, examples))
        ]
        return earned[-1] if earned else found[0][1]
    return min(found, key=lambda pair: pair[0])[1]


def _at(
    index: int,
    cost: Cost,
    processes: int,
    memory: int,
    seconds: float | None,
    steps: int | None,
    batches: Sequence[int],
) -> Choice | None:
    """What a size would see with one of the batches; None where memory is too short for all of them."""
    sizes = [size for size in batches if cost.bytes(size // processes) <= memory]
    if not sizes:
        return None
    wanted = 64 if seconds is None else batch_for(seconds * processes / (cost.sample + cost.step * processes / 64))
    chosen = max([size for size in sizes if size <= wanted] or sizes[:1])
    within = math.inf if seconds is None else seconds / cost.seconds(chosen // processes)
    count = max(1, int(min(within, math.inf if steps is None else steps)))
    return Choice(index, chosen, count, count * chosen, BASE + cost.bytes(chosen // processes))
