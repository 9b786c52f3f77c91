"""Attention: the one function through which every attention of every network goes.

``softmax(q k^T / sqrt(d)) v`` over heads that are already split. A different kernel is a different
``attend``: networks take it from here and nowhere else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.nn.chunking import chunked

SHORT = 256 * 256
"""Pairs of queries and keys up to which two products are faster in bfloat16 on a CPU than the fused kernel."""

NARROW = 16
"""Width below which heads are filled with zeros on a CPU, whose kernel takes half as long again for heads of 8."""
HEADS = 2  # that are filled at once while sampling
FEW = 128 * 128
"""Pairs of queries and keys below which that gains nothing."""


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Scaled dot-product attention.

    query (B, H, N, D), key and value (B, H, M, D) -> (B, H, N, D). ``mask`` is boolean, true where a key may be
    attended, of shape (B, M) or anything that broadcasts to (B, H, N, M). ``scale`` defaults to 1 / sqrt(D).
    """
    if mask is not None and mask.ndim == 2:
        mask = mask[:, None, None, :]
    if query.device.type == "cpu" and _computes_in_bfloat16(query) and query.shape[-2] * key.shape[-2] <= SHORT:
        return by_products(query, key, value, mask, scale)
    if query.device.type == "cpu" and query.shape[-1] < NARROW and query.shape[-2] * key.shape[-2] >= FEW:
        return zero_padded(query, key, value, mask, scale)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def zero_padded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """The same by heads of ``NARROW`` channels, the last of them zeros, which change no product."""
    width = query.shape[-1]
    scale = width**-0.5 if scale is None else scale

    def some(*heads: Tensor) -> Tensor:
        query, key, value = (F.pad(x, (0, NARROW - width)) for x in heads)
        wide = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        return wide[..., :width].contiguous()  # or the zeros would be kept

    alike = mask is None or mask.ndim < 3 or mask.shape[-3] == 1  # to all heads
    return chunked(some, HEADS if alike else query.shape[1], query, key, value)


def by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """The same as it is written: forward and backward are 2 to 8 times as fast in bfloat16 on a CPU, if short."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = query * scale @ key.transpose(-2, -1)  # (B, H, N, M)
    if mask is None:
        return weights.softmax(-1).to(value.dtype) @ value
    # A query that may attend to nothing gets zeros, as from the fused kernel.
    weights = weights.masked_fill(~mask, float("-inf")).softmax(-1).masked_fill(~mask, 0)
    return weights.to(value.dtype) @ value


def _computes_in_bfloat16(x: Tensor) -> bool:
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.dtype == torch.bfloat16 or autocast


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * D) -> (B, heads, N, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, D) -> (B, N, heads * D)."""
    return x.transpose(1, 2).flatten(-2)
