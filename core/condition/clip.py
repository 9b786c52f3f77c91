"""CLIP's conditions: tokens for Stable Diffusion 1 and 2; two encoders, size and crop for SDXL."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from core.cond import Cond
from core.condition import Batch
from core.condition.micro import with_micro_conditions
from core.condition.pretrained import Clip, PretrainedEncoder, PretrainedText, captions_of, repeated


class ClipText(PretrainedText):
    """``cond.tokens`` (B, 77, width): CLIP's last state after its final norm (2112.10752, section 4.3).

    Stable Diffusion 2 reads its encoder's penultimate state so: its published encoder lacks the last layer instead.
    """

    def __init__(self, clip: Clip, skip: int = 0) -> None:
        """skip: layers left out at the end ("clip skip"). Raises ValueError if the encoder has not so many."""
        super().__init__()
        self.clip = clip
        self.skip = skip
        if skip < 0:
            raise ValueError(f"the number of layers to skip must be 0 or more, not {skip}")

    def encoders(self) -> list[PretrainedEncoder]:
        return [self.clip]

    def encode(self, captions: Sequence[str]) -> Cond:
        states = self.clip.encode(captions).states
        if self.skip >= len(states):
            raise ValueError(f"this encoder has {len(states) - 1} layers, of which {self.skip} cannot be skipped")
        return Cond(tokens=self.clip.normed(states[-1 - self.skip]))


class SdxlText(PretrainedText):
    """SDXL's condition (2307.01952, section 2.2): what its encoders say of the text, and numbers of the picture.

    ``cond.tokens`` (B, 77, widths) are the penultimate states of all encoders, before any norm. ``cond.vector`` joins
    what the last encoder pools with sinusoids of the original size (height, width), of where the crop begins (top,
    left) and of the target size. The refiner takes the last encoder only, and an aesthetic score in place of the
    target.

    A batch may hold "size", "crop" and "target" (B, 2) or one for all (2,), and "score" (B,).
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        size: tuple[int, int] = (1024, 1024),
        width: int = 256,
        zeros: bool = True,
        scores: tuple[float, float] | None = None,
    ) -> None:
        """size: (height, width) of what a batch does not say; width: of each number's sinusoids.

        zeros: whether nothing asked for is zeros for the text, or else the empty caption; scores: the refiner's, of
        what is asked for and of nothing (6.0 and 2.5).
        """
        super().__init__()
        self.clips = torch.nn.ModuleList(clips)
        self.size = size
        self.width = width
        self.zeros = zeros
        self.scores = scores

    def encoders(self) -> list[PretrainedEncoder]:
        return [clip for clip in self.clips if isinstance(clip, PretrainedEncoder)]

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError for captions that are no text, and for sizes that are not two numbers a sample."""
        text = self.encode(captions_of(batch))
        return self._with_numbers(text, batch, None if self.scores is None else self.scores[0])

    def null(self, count: int) -> Cond:
        """No text, or the empty one, in a picture of the usual size."""
        text = self.encode([""])
        if self.zeros and text.tokens is not None and text.vector is not None:
            text = Cond(vector=torch.zeros_like(text.vector), tokens=torch.zeros_like(text.tokens))
        return repeated(self._with_numbers(text, {}, None if self.scores is None else self.scores[1]), count)

    def encode(self, captions: Sequence[str]) -> Cond:
        """The condition of the text alone: tokens, and the pooled output of the last encoder."""
        outputs = [clip.encode(captions) for clip in self.clips if isinstance(clip, Clip)]
        return Cond(vector=outputs[-1].pooled, tokens=torch.cat([found.states[-2] for found in outputs], dim=-1))

    def _with_numbers(self, text: Cond, batch: Batch, score: float | None) -> Cond:
        return with_micro_conditions(text, batch, self.size, self.width, score)
