"""Judges: small networks trained on real data, in whose features samples are measured. One loop trains all of them.

A judge never sees the model that it judges. What it learns is its domain's: to name classes, to find what a caption
names, or, of two encoders, to find which caption belongs to which sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.progress import Progress

Judge = TypeVar("Judge", bound=nn.Module)
TICKS = 100  # parts in which progress is shown
RISE = 0.2  # share of the steps over which the rate rises


def train_judge(
    make: Callable[[], Judge],
    losses: Callable[[Judge], Iterable[Tensor]],
    lr: float,
    cycle: int | None = None,
    weight_decay: float = 1e-2,
    seed: int = 0,
) -> Judge:
    """Make a judge and take a step of AdamW for each of its losses; the same seed gives the same judge.

    losses: may draw from torch's global generator, which is left as it was; cycle: of so many steps the rate rises to
    ``lr`` and falls again (1708.07120), without it the rate stays.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = make()
        optimizer = torch.optim.AdamW(judge.parameters(), lr, weight_decay=weight_decay, fused=True)
        rate = None if cycle is None else torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=cycle)
        for loss in losses(judge):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if rate is not None:
                rate.step()
    return judge.eval().requires_grad_(False)


def train_within(
    make: Callable[[], Judge],
    loss: Callable[[Judge, Tensor], Tensor],
    count: int,
    seconds: float,
    most: int,
    lr: float = 3e-3,
    batch: int = 64,
    weight_decay: float = 5e-2,
    seed: int = 0,
    progress: Progress = Progress(),
    what: str = "training a judge",
) -> Judge:
    """Make a judge and train it for ``most`` steps, or as many as fit into ``seconds`` of wall clock.

    loss: of the judge on some rows (B,) of ``count`` examples, each of which comes once an epoch; it may draw from
    torch's global generator, which is left as it was. The rate rises and falls once over what there is of either.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = make().train()
        optimizer = torch.optim.AdamW(judge.parameters(), lr, weight_decay=weight_decay, fused=True)
        rows, began, step, done = _rows(count, min(batch, count)), time.monotonic(), 0, 0.0
        for tick in progress.track(range(TICKS), what):
            while done < (tick + 1) / TICKS:
                progress.check()
                optimizer.param_groups[0]["lr"] = lr * min((done + 0.01) / RISE, (1 - done) / (1 - RISE))
                found = loss(judge, next(rows))
                optimizer.zero_grad()
                found.backward()
                optimizer.step()
                step += 1
                done = max(step / most, (time.monotonic() - began) / seconds)
    return judge.eval().requires_grad_(False)


def _rows(count: int, batch: int) -> Iterator[Tensor]:
    """Rows of batches, epoch after epoch; what fills no batch is left out."""
    while True:
        order = torch.randperm(count)
        yield from (order[first : first + batch] for first in range(0, count - batch + 1, batch))


def contrastive_loss(texts: Tensor, others: Tensor, captions: Sequence[str], logit_scale: Tensor) -> Tensor:
    """How badly captions (B, D) and what they describe (B, D), both of length 1, are distinguished, ().

    Symmetric cross-entropy over the batch, in which each caption is to find its sample and each sample its caption
    (2103.00020, section 2.3), by their products times ``exp(logit_scale)``. Equal captions are no rivals.
    """
    alike = texts @ others.T * logit_scale.exp().clamp(max=100)
    number = {caption: index for index, caption in enumerate(captions)}
    which = torch.tensor([number[caption] for caption in captions], device=alike.device)
    rivals = which[:, None] == which
    rivals.fill_diagonal_(False)
    alike = alike.masked_fill(rivals, -1e4)
    right = torch.arange(len(alike), device=alike.device)
    return (F.cross_entropy(alike, right) + F.cross_entropy(alike.T, right)) / 2
