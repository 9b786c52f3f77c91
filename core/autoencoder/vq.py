"""The VQ autoencoder: each place of the code is one of a table of vectors (1711.00937; 2112.10752).

    z_q = e_k,  k = argmin |z - e_k|^2          loss = |sg(z) - e_k|^2 + beta |z - sg(e_k)|^2

In the gradient z_q stands for z (straight through).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.autoencoder.net import Decoder, Encoder, Plan


class Quantized(NamedTuple):
    """What the table made of a code."""

    code: Tensor  # (B, C, *grid), rows of the table; gradients pass to what was quantised
    indices: Tensor  # (B, *grid)
    loss: Tensor  # ()


class Codebook(nn.Module):
    """A table of vectors (entries, width); ``beta`` holds the code near its entry."""

    def __init__(self, entries: int, width: int, beta: float = 0.25) -> None:
        super().__init__()
        self.beta = beta
        self.table = nn.Embedding(entries, width)
        nn.init.uniform_(self.table.weight, -1 / entries, 1 / entries)

    def forward(self, z: Tensor) -> Quantized:
        """z (B, C, *grid)."""
        rows = z.movedim(1, -1)  # (B, *grid, C)
        indices = self.nearest(rows.reshape(-1, rows.shape[-1])).view(rows.shape[:-1])
        found = self.table(indices)
        loss = ((found - rows.detach()) ** 2).mean() + self.beta * ((found.detach() - rows) ** 2).mean()
        passed = rows + (found - rows).detach()
        return Quantized(passed.movedim(-1, 1), indices, loss)

    @torch.no_grad()
    def nearest(self, rows: Tensor) -> Tensor:
        """(N, C) -> the index of the nearest entry (N,)."""
        entries = self.table.weight
        distance = entries.square().sum(1) - 2 * rows @ entries.t()  # + |row|^2, the same for all entries
        return distance.argmin(1)

    def perplexity(self, indices: Tensor) -> Tensor:
        """How many entries are in use, as the exponential of the entropy of ``indices``: () in [1, entries]."""
        share = torch.bincount(indices.flatten(), minlength=self.table.num_embeddings).double()
        share = share / share.sum()
        return torch.special.entr(share).sum().exp()


class VQAutoencoder(nn.Module):
    """Encoder, table, decoder, with a convolution of size 1 on either side of the table."""

    def __init__(self, plan: Plan, entries: int, beta: float = 0.25) -> None:
        super().__init__()
        self.plan = plan
        self.encoder = Encoder(plan, plan.latent)
        self.quant = plan.style.conv(plan.latent, plan.code, size=1)
        self.codebook = Codebook(entries, plan.code, beta)
        self.post_quant = plan.style.conv(plan.code, plan.latent, size=1)
        self.decoder = Decoder(plan)

    def encode(self, x: Tensor) -> Tensor:
        """Data -> the code before it is quantised (B, code, *grid / factor): what is diffused."""
        code: Tensor = self.quant(self.encoder(x))
        return code

    def decode(self, z: Tensor) -> Tensor:
        """Codes, through the table -> data."""
        out: Tensor = self.decoder(self.post_quant(self.codebook(z).code))
        return out

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        """Data -> the reconstruction, and what the table made of its code."""
        found: Quantized = self.codebook(self.encode(x))
        return self.decoder(self.post_quant(found.code)), found
