"""A DiT with cross-attention to a text in each block (PixArt-alpha, 2310.00426, section 2.2).

    x = x + gate  * attention(...)            as in ``core.nn.dit``
    x = x + reader(norm(x), words)            cross-attention, whose projection starts at zero
    x = x + gate' * mlp(...)

Time and ``cond.vector`` modulate the norms; ``cond.tokens`` are the words. What depends on the words only, their keys
and values in every block, is computed once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.attention import attend, merge_heads, split_heads
from core.nn.dit import Block, DiT, Front, Modulations, linear, modulate
from core.nn.embeddings import memoize_by_time

Words = list[tuple[Tensor, Tensor]]  # of each block: keys and values of the words (B, heads, L, d)


class Reader(nn.Module):
    """Cross-attention of tokens to words."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.ask = linear(width, width)
        self.words = linear(text_width, 2 * width)  # rows [k; v]
        self.project = linear(width, width, gain=0.0)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Words (B, L, text width) -> keys and values (B, heads, L, d)."""
        key, value = self.words(tokens).chunk(2, dim=-1)
        return split_heads(key, self.heads), split_heads(value, self.heads)

    def forward(self, x: Tensor, words: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Tokens (B, N, D) -> the output of their cross-attention."""
        query = split_heads(self.ask(F.layer_norm(x, x.shape[-1:], eps=1e-6)), self.heads)
        read: Tensor = self.project(merge_heads(attend(query, *words, mask)))
        return read


class TextDiT(DiT):
    """A diffusion transformer over the tokens of a front end that reads ``cond.tokens`` (B, L, text width)."""

    def __init__(self, front: Front, depth: int, heads: int, text_width: int) -> None:
        super().__init__(front, depth, heads)
        self.text_width = text_width
        self.readers = nn.ModuleList(Reader(front.width, heads, text_width) for _ in range(depth))

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """x (B, ...) as the front end takes it, time (B,), cond.tokens with cond.mask, cond.vector, cond.valid."""
        return self.denoise_with_text(x, self.modulations(time, cond), self.keys_values(cond), cond.mask, cond.valid)

    def prepare(self, cond: Cond) -> Callable[[Tensor, Tensor], Tensor]:
        """The network with its condition inside; modulations are memoized by time."""
        words, modulations = self.keys_values(cond), memoize_by_time(lambda time: self.modulations(time, cond))
        return lambda x, time: self.denoise_with_text(x, modulations(time), words, cond.mask, cond.valid)

    def keys_values(self, cond: Cond) -> Words:
        """Keys and values of the words in every block. Raises ValueError where there are none, or of another width."""
        if cond.tokens is None or cond.tokens.shape[-1] != self.text_width:
            raise ValueError(f"this network reads words of width {self.text_width}: give it cond.tokens of that width")
        return [reader.keys_values(cond.tokens) for reader in self.readers if isinstance(reader, Reader)]

    def denoise_with_text(
        self, x: Tensor, modulations: Modulations, words: Words, mask: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        """The network, given all that does not depend on x; tokens that are not real affect no other and are 0 in the
        output."""
        tokens = self.front(x)
        exists = None if valid is None else self.front.token_mask(valid)
        if exists is not None and exists.shape != tokens.shape[:2]:
            raise ValueError(f"valid mask of shape {tuple(exists.shape)} for tokens {tuple(tokens.shape[:2])}")
        for block, reader, modulation, word_keys in zip(self.blocks, self.readers, modulations.blocks, words):
            assert isinstance(block, Block)
            tokens = block.attention(tokens, modulation, exists)
            tokens = tokens + reader(tokens, word_keys, mask)
            tokens = block.mlp(tokens, modulation)
        output = self.readout(modulate(tokens, *modulations.last, 1e-6))  # (B, N, features)
        if exists is not None:
            output = output.masked_fill(~exists[..., None], 0)
        return self.front.fold(output, x)
