"""CLIP's tokens as a condition, as Stable Diffusion 1 and 2 read them."""

from __future__ import annotations

from collections.abc import Sequence

from core.cond import Cond
from core.text.pretrained import Clip, PretrainedEncoder, PretrainedText


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
