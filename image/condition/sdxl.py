"""SDXL's condition: tokens of one or two CLIPs, and a vector of what is pooled and of the picture's numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from core.cond import Cond
from core.condition import Batch
from core.text.pretrained import Clip, PretrainedEncoder, PretrainedText, captions_of, repeated
from image.condition.micro import with_micro_conditions


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
