"""Transformers in pieces: what is widest in them stays small while sampling, and in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def chunked(function: Callable[..., Tensor], size: int, *tokens: Tensor) -> Tensor:
    """``function`` of tokens (B, N, ...) that know nothing of each other, ``size`` of them at a time -> (B, N, ...).

    All at once where gradients keep everything, or where a compiler sees to it.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or tokens[0].shape[1] <= size:
        return function(*tokens)
    return torch.cat([function(*piece) for piece in zip(*(part.split(size, dim=1) for part in tokens))], dim=1)
