"""Judges: small networks trained on real data, in whose features samples are measured. One loop trains all of them.

A judge never sees the model that it judges. What it learns is its domain's: to name classes, to find what a caption
names, or, of two encoders, to find which caption belongs to which sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Judge = TypeVar("Judge", bound=nn.Module)


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


def contrastive_loss(texts: Tensor, others: Tensor, captions: Sequence[str], logit_scale: Tensor) -> Tensor:
    """How badly captions (B, D) and what they describe (B, D), both of length 1, are distinguished, ().

    Symmetric cross-entropy over the batch, in which each caption is to find its sample and each sample its caption
    (2103.00020, section 2.3), by their products times ``exp(logit_scale)``. Equal captions are no rivals.
    """
    alike = texts @ others.T * logit_scale.exp().clamp(max=100)
    rivals = torch.tensor([[a == b for b in captions] for a in captions], device=alike.device)
    rivals.fill_diagonal_(False)
    alike = alike.masked_fill(rivals, -1e4)
    right = torch.arange(len(alike), device=alike.device)
    return (F.cross_entropy(alike, right) + F.cross_entropy(alike.T, right)) / 2
