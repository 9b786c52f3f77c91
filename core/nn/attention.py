"""Attention: the one function through which every attention of every network goes.

``softmax(q k^T / sqrt(d)) v`` over heads that are already split. A different kernel is a different
``attend``: networks take it from here and nowhere else.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Scaled dot-product attention.

    query (B, H, N, D), key and value (B, H, M, D) -> (B, H, N, D). ``mask`` is boolean, true where a key may be
    attended, of shape (B, M) or anything that broadcasts to (B, H, N, M). ``scale`` defaults to 1 / sqrt(D).
    """
    if mask is not None and mask.ndim == 2:
        mask = mask[:, None, None, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * D) -> (B, heads, N, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, D) -> (B, N, heads * D)."""
    return x.transpose(1, 2).flatten(-2)
