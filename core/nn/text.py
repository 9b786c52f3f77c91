"""A text encoder that trains with the model: a bidirectional transformer over the words of a caption.

Words are looked up by hash in two tables whose rows are summed (hash embeddings, 1709.03933): there is no vocabulary to
fix beforehand, and two words share an embedding only if both hashes collide.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.attention import attend, merge_heads, split_heads


class TextBlock(nn.Module):
    """Attention between words and a GELU MLP, each after its norm and on the residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)  # rows [q; k; v]
        self.project = nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D), mask (B, L) -> (B, L, D)."""
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        x = x + self.project(merge_heads(attend(query, key, value, mask)))
        output: Tensor = x + self.contract(F.gelu(self.expand(self.norm2(x))))
        return output


class TextEncoder(nn.Module):
    """Hashed words (B, L, 2) and which of them are real (B, L) -> tokens (B, L, width)."""

    def __init__(self, width: int, depth: int, heads: int, length: int, rows: int = 2048) -> None:
        """length: the most words of a caption; rows: of each of the two tables.

        Raises ValueError when the width does not divide into heads.
        """
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads: choose a multiple of {heads}")
        self.width, self.length, self.rows = width, length, rows
        self.tables = nn.ModuleList(nn.Embedding(rows, width) for _ in range(2))
        self.positions = nn.Parameter(torch.randn(length, width) * 0.1)
        self.blocks = nn.ModuleList(TextBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for table in self.tables:
            nn.init.normal_(table.get_parameter("weight"), std=0.5)

    def forward(self, hashes: Tensor, mask: Tensor) -> Tensor:
        """The last layer's states, normalised; rows of words that are not real are meaningless."""
        first, second = (table(hashes[..., column]) for column, table in enumerate(self.tables))
        x = first + second + self.positions[: hashes.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        tokens: Tensor = self.norm(x)
        return tokens
