"""MMDiT: text and image as two streams of tokens with joint attention (Stable Diffusion 3, 2403.03206).

    image = Linear(patches of [x, concat]) + positions;  text = Linear(tokens);  c = embed(time) + embed(vector)
    block:  each stream has its own modulations by c (adaLN-Zero), QKV and MLP; one attention over [text, image]
            in the first ``dual`` blocks the image also attends to itself, from the same norm (MMDiT-X, SD 3.5 medium)
    last block: the text is attended to, but not continued
    out = patches folded back from Linear(modulated norm of the image)

Positions are a fixed table, of which a smaller picture reads the centre. A patch is p x p places, its channels in the
order (channel, row, column).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.attention import attend, merge_heads
from core.nn.dit import TimeEmbedding, linear
from core.nn.embeddings import memoize_by_time, sincos_positions
from core.nn.flux import EPSILON, EncodedCond, Modulation, VectorEmbedding, listed
from core.nn.patchify import patchify, unpatchify


class Modulations(NamedTuple):
    """The modulations of every layer; a function of time and vector only, so they can be cached."""

    blocks: list[tuple[Modulation, Modulation]]  # of text and image
    last: Modulation  # shift, 1 + scale of the readout


def norm(x: Tensor) -> Tensor:
    """Zero mean and unit variance over the channels of each token."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


class Projection(nn.Module):
    """Queries, keys and values of tokens; queries and keys are RMS-normalised and scaled where ``normed``."""

    def __init__(self, width: int, heads: int, normed: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width)  # rows [q; k; v]
        self.scale = nn.Parameter(torch.ones(2, width // heads)) if normed else None  # of the queries and of the keys

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, N, D) -> queries and keys (B, N, 2, heads, d), values (B, N, heads, d)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, d)
        pair, value = qkv[:, :, :2], qkv[:, :, 2]
        if self.scale is not None:
            pair = F.rms_norm(pair, pair.shape[-1:], eps=EPSILON) * self.scale[:, None]
        return pair, value


class SelfAttention(nn.Module):
    """Attention within one stream."""

    def __init__(self, width: int, heads: int, normed: bool) -> None:
        super().__init__()
        self.attention = Projection(width, heads, normed)
        self.project = linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        pair, value = self.attention(x)
        query, key = pair.permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        attended: Tensor = self.project(merge_heads(attend(query, key, value.transpose(1, 2))))
        return attended


class Source(nn.Module):
    """The layers that make a stream's queries, keys and values; all that the text of the last block has."""

    def __init__(self, width: int, heads: int, normed: bool, parts: int = 2) -> None:
        super().__init__()
        self.parts = parts
        self.modulator = linear(width, parts * width, gain=0.0)
        self.attention = Projection(width, heads, normed)

    def encode(self, active: Tensor) -> Modulation:
        """The modulation of this stream, of the activated embedding of time and vector (B, 1, D)."""
        parts = self.modulator(active).chunk(self.parts, dim=-1)  # shift, scale, gate, shift, ...
        return tuple(1 + part if i % 3 == 1 else part for i, part in enumerate(parts))

    def project_qkv(self, normal: Tensor, modulation: Modulation) -> tuple[Tensor, Tensor]:
        """Queries and keys, and values, of normalised tokens (B, N, D)."""
        shift, scale, *_ = modulation
        projected: tuple[Tensor, Tensor] = self.attention(torch.addcmul(shift, normal, scale))
        return projected


class Stream(Source):
    """A stream that continues: joint attention, perhaps self-attention, and an MLP."""

    def __init__(self, width: int, heads: int, normed: bool, dual: bool = False) -> None:
        super().__init__(width, heads, normed, 9 if dual else 6)
        self.project = linear(width, width)
        self.own = SelfAttention(width, heads, normed) if dual else None
        self.expand = linear(width, 4 * width)
        self.contract = linear(4 * width, width)

    def residual(self, x: Tensor, normal: Tensor, attended: Tensor, modulation: Modulation) -> Tensor:
        """x (B, N, D), whose norm is ``normal``, after the attention's output (B, N, D) and the MLP are added."""
        _, _, gate, shift, scale, last_gate, *own = modulation
        x = torch.addcmul(x, gate, self.project(attended))
        if self.own is not None:
            own_shift, own_scale, own_gate = own
            x = torch.addcmul(x, own_gate, self.own(torch.addcmul(own_shift, normal, own_scale)))
        hidden = F.gelu(self.expand(torch.addcmul(shift, norm(x), scale)), approximate="tanh")
        return torch.addcmul(x, last_gate, self.contract(hidden))


class Block(nn.Module):
    """Two streams with one joint attention."""

    def __init__(self, width: int, heads: int, normed: bool, dual: bool) -> None:
        super().__init__()
        self.text, self.image = Stream(width, heads, normed), Stream(width, heads, normed, dual)

    def forward(
        self, text: Tensor, image: Tensor, modulation: tuple[Modulation, Modulation], mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """text (B, L, D), image (B, N, D), mask (B, L + N) -> the two streams."""
        of_text, of_image = modulation
        normal_text, normal_image = norm(text), norm(image)
        query, key, value = join(
            self.text.project_qkv(normal_text, of_text), self.image.project_qkv(normal_image, of_image)
        )
        parts = merge_heads(attend(query, key, value, mask)).split([text.shape[1], image.shape[1]], dim=1)
        # Contiguous, or the projections would multiply first and add their biases in a second pass.
        by_text, by_image = (part.contiguous() for part in parts)
        return (
            self.text.residual(text, normal_text, by_text, of_text),
            self.image.residual(image, normal_image, by_image, of_image),
        )


class LastBlock(nn.Module):
    """The last block: the image attends to the text, which ends here."""

    def __init__(self, width: int, heads: int, normed: bool, dual: bool) -> None:
        super().__init__()
        self.text, self.image = Source(width, heads, normed), Stream(width, heads, normed, dual)

    def forward(
        self, text: Tensor, image: Tensor, modulation: tuple[Modulation, Modulation], mask: Tensor | None
    ) -> Tensor:
        """text (B, L, D), image (B, N, D), mask (B, L + N) -> the image."""
        of_text, of_image = modulation
        normal = norm(image)
        query, key, value = join(self.text.project_qkv(norm(text), of_text), self.image.project_qkv(normal, of_image))
        attended = merge_heads(attend(query[:, :, text.shape[1] :], key, value, mask))
        return self.image.residual(image, normal, attended, of_image)


def join(text: tuple[Tensor, Tensor], image: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The projections of two streams -> queries, keys and values of [text, image], each (B, heads, L + N, d)."""
    pair, value = (torch.cat(parts, dim=1) for parts in zip(text, image))
    query, key = pair.permute(2, 0, 3, 1, 4)
    return query, key, value.transpose(1, 2)


class MMDiT(nn.Module):
    """The transformer of Stable Diffusion 3 over image-shaped latents."""

    def __init__(
        self,
        channels: int = 16,
        heads: int = 24,
        depth: int = 24,
        text_width: int = 4096,
        vector_width: int = 2048,
        head_width: int = 64,
        patch: int = 2,
        size: int = 128,
        table: int = 192,
        normed: bool = False,
        dual: int = 0,
        concat_channels: int = 0,
    ) -> None:
        """size: side of the latents that are usual; table: the most patches a side may have, numbered as if they were
        the patches of the usual size. normed: queries and keys are; dual: how many blocks have self-attention of the
        image too. vector_width 0 is a network without pooled text; concat_channels: those of ``cond.concat``, joined
        to x's.
        """
        super().__init__()
        self.width = width = heads * head_width
        self.channels, self.patch, self.heads, self.size, self.table = channels, patch, heads, size, table
        self.normed, self.dual = normed, dual
        self.proj_in = linear((channels + concat_channels) * patch**2, width)
        self.positions = nn.Buffer(
            sincos_positions((table, table), width, spacing=size // patch / table).view(table, table, width)
        )
        self.text = linear(text_width, width)
        self.time = TimeEmbedding(width, 0.0)
        self.vector = VectorEmbedding(vector_width, width) if vector_width else None
        self.blocks = listed(Block(width, heads, normed, i < dual) for i in range(depth - 1))
        self.last = LastBlock(width, heads, normed, dual >= depth)
        self.last_modulator = linear(width, 2 * width, gain=0.0)
        self.readout = linear(width, channels * patch**2, gain=0.0)

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        """x (B, C, H, W), time (B,) = 1000 t, cond.tokens (B, L, text_width), and vector, concat, mask.

        Raises ValueError where the condition lacks what the network needs, or x does not fit the patches.
        """
        encoded = self.encode(cond)
        return self.denoise(x, self.modulations(time, encoded.embedded), encoded, self.position_embedding(x))

    def prepare(self, cond: Cond) -> Callable[[Tensor, Tensor], Tensor]:
        """The network with its condition inside; positions of a size and modulations of a single time are kept."""
        encoded = self.encode(cond)
        position_embedding: dict[torch.Size, Tensor] = {}
        modulations = memoize_by_time(lambda time: self.modulations(time, encoded.embedded))

        def output_of(x: Tensor, time: Tensor) -> Tensor:
            if x.shape[2:] not in position_embedding:
                position_embedding[x.shape[2:]] = self.position_embedding(x)
            return self.denoise(x, modulations(time), encoded, position_embedding[x.shape[2:]])

        return output_of

    def encode(self, cond: Cond) -> EncodedCond:
        """The encoded condition, computed once for all times and all x."""
        if cond.tokens is None:
            raise ValueError("this network reads text: give it tokens (cond.tokens)")
        embedded = cond.tokens.new_zeros(len(cond.tokens), self.width)
        if self.vector is not None:
            if cond.vector is None:
                raise ValueError("this network needs a pooled text (cond.vector)")
            embedded = self.vector(cond.vector)
        return EncodedCond(self.text(cond.tokens), embedded, cond.concat, cond.mask)

    def position_embedding(self, x: Tensor) -> Tensor:
        """The positions of x's patches, from the centre of the table: (N, D). Raises ValueError beyond its sizes."""
        rows, columns = (length // self.patch for length in x.shape[2:])
        if max(rows, columns) > self.table:
            raise ValueError(
                f"{rows} x {columns} patches do not fit the {self.table} x {self.table} positions of this network: "
                "make the picture smaller"
            )
        top, left = (self.table - rows) // 2, (self.table - columns) // 2
        return self.positions[top : top + rows, left : left + columns].reshape(rows * columns, self.width)

    def cut(self, x: Tensor, concat: Tensor | None) -> Tensor:
        """The patches of x joined with ``cond.concat``: (B, N, features)."""
        patches = patchify(x if concat is None else torch.cat([x, concat.to(x.dtype)], dim=1), self.patch)
        if patches.shape[-1] != self.proj_in.in_features:
            expected = self.proj_in.in_features // self.patch**2 - self.channels
            raise ValueError(
                f"patches of {patches.shape[-1]} numbers, not {self.proj_in.in_features}: this network takes x of "
                f"{self.channels} channels and {expected} channels of cond.concat"
            )
        return patches

    def modulations(self, time: Tensor, embedded: Tensor) -> Modulations:
        """Everything that depends on time (B,) or (1,) and on the embedded condition (B, D) only."""
        active = F.silu(self.time(time) + embedded)[:, None]  # (B, 1, D)
        streams: list[tuple[Source, Stream]] = [(block.text, block.image) for block in self.blocks]
        streams.append((self.last.text, self.last.image))
        blocks = [(text.encode(active), image.encode(active)) for text, image in streams]
        shift, scale = self.last_modulator(active).chunk(2, dim=-1)
        return Modulations(blocks, (shift, 1 + scale))

    def denoise(self, x: Tensor, modulations: Modulations, encoded: EncodedCond, position_embedding: Tensor) -> Tensor:
        """The network, given all that does not depend on x: x (B, C, H, W) -> (B, C, H, W)."""
        text, image = encoded.text, self.proj_in(self.cut(x, encoded.concat)) + position_embedding.to(x.dtype)
        mask = encoded.mask
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(image.shape[:2])], dim=1)
        for block, modulation in zip(self.blocks, modulations.blocks):
            text, image = block(text, image, modulation, mask)
        image = self.last(text, image, modulations.blocks[-1], mask)
        shift, scale = modulations.last
        output = self.readout(torch.addcmul(shift, norm(image), scale))  # (B, N, features)
        return unpatchify(output, self.patch, x.shape[2:])


def sd3_medium() -> MMDiT:
    """Stable Diffusion 3 medium (2403.03206, depth 24)."""
    return MMDiT()


def sd35_large() -> MMDiT:
    """Stable Diffusion 3.5 large (2403.03206, depth 38, with normalised queries and keys)."""
    return MMDiT(heads=38, depth=38, normed=True)


def sd35_medium() -> MMDiT:
    """Stable Diffusion 3.5 medium (MMDiT-X): the image of the first 13 blocks also attends to itself."""
    return MMDiT(table=384, normed=True, dual=13)
