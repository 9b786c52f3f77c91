"""Token-wise functions computed in chunks, so that wide hidden layers need little memory while sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def chunked(function: Callable[..., Tensor], size: int, *tokens: Tensor) -> Tensor:
    """``function`` of independent tokens (B, N, ...), ``size`` of them at a time -> (B, N, ...).

    All at once under autograd, which keeps every activation anyway, and in compiled code.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or tokens[0].shape[1] <= size:
        return function(*tokens)
    return torch.cat([function(*piece) for piece in zip(*(part.split(size, dim=1) for part in tokens))], dim=1)
