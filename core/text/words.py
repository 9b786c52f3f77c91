"""Captions for a model that learns its own language: words, hashed, through a text encoder trained with the model."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.cond import Cond
from core.condition import Batch, Conditioner
from core.nn.text import TextEncoder

BEGIN = "\x02"  # the first token of every caption, so that the empty one has a token too


def words(caption: str) -> list[str]:
    """A caption's words, in lower case; a mark of punctuation is a word, and so is each digit of a number."""
    return re.findall(r"[^\W\d_]+|\d|[^\w\s]|_", caption.lower())


def hashes(word: str, rows: int) -> tuple[int, int]:
    """A word's rows in two tables, the same on every machine."""
    value = zlib.crc32(word.encode())
    return value % rows, value // rows % rows


class Words(Conditioner):
    """``batch["caption"]`` (B strings) -> ``cond.tokens`` (B, length, width) with ``cond.mask``, its first token BEGIN.

    With ``pooled`` the mean of the real tokens also goes to ``cond.vector`` (B, vector) through a linear layer.
    """

    def __init__(self, encoder: TextEncoder, vector: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = nn.Linear(encoder.width, vector) if vector else None

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError when there are no captions, or one is no text or has too many words."""
        captions = batch.get("caption")
        if captions is None:
            raise ValueError("text-conditional model: the batch has no 'caption' (one for each sample)")
        return self.encode(captions)

    def null(self, count: int) -> Cond:
        """The empty caption."""
        return self.encode([""] * count)

    def encode(self, captions: Sequence[str]) -> Cond:
        """The condition of some captions, one a sample."""
        hashes_of, mask = self.look_up(captions)
        device = self.encoder.positions.device
        mask = mask.to(device)
        tokens = self.encoder(hashes_of.to(device), mask)
        if self.pool is None:
            return Cond(tokens=tokens, mask=mask)
        real = mask[..., None].to(tokens)
        return Cond(vector=self.pool((tokens * real).sum(1) / real.sum(1)), tokens=tokens, mask=mask)

    def look_up(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Hashes (B, length, 2) and which are of real words (B, length)."""
        length, rows = self.encoder.length, self.encoder.rows
        found = torch.zeros(len(captions), length, 2, dtype=torch.long)
        mask = torch.zeros(len(captions), length, dtype=torch.bool)
        for row, caption in enumerate(captions):
            if not isinstance(caption, str):
                raise ValueError(f"a caption must be text, not {type(caption).__name__}")
            tokens_of = [BEGIN, *words(caption)]
            if len(tokens_of) > length:
                raise ValueError(
                    f"a caption of {len(tokens_of) - 1} words is too long for this model, which reads {length - 1}: "
                    f"shorten '{caption[:40]}...'"
                )
            found[row, : len(tokens_of)] = torch.tensor([hashes(word, rows) for word in tokens_of])
            mask[row, : len(tokens_of)] = True
        return found, mask
