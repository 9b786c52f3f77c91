"""Patchify: a grid cut into patches, one token each, and the inverse."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def patchify(x: Tensor, patch: int) -> Tensor:
    """A grid (B, C, *sizes) -> its patches (B, N, C * patch^axes), channels in the order (channel, place).

    Raises ValueError when the grid does not divide into patches.
    """
    axes = x.ndim - 2
    if any(size % patch for size in x.shape[2:]):
        raise ValueError(f"grid {tuple(x.shape[2:])} does not divide into patches of {patch}: pad or crop it")
    cells = x.reshape(*x.shape[:2], *[part for size in x.shape[2:] for part in (size // patch, patch)])
    order = (0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2))  # (B, *tokens, C, *patch)
    return cells.permute(order).flatten(1 + axes).flatten(1, axes)


def unpatchify(tokens: Tensor, patch: int, sizes: Sequence[int]) -> Tensor:
    """The inverse: (B, N, C * patch^axes) -> (B, C, *sizes)."""
    axes = len(sizes)
    cells = tokens.unflatten(1, [size // patch for size in sizes]).unflatten(-1, (-1, *[patch] * axes))
    order = (0, 1 + axes, *[axis for pair in zip(range(1, 1 + axes), range(2 + axes, 2 + 2 * axes)) for axis in pair])
    return cells.permute(order).reshape(len(tokens), -1, *sizes)
