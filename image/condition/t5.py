"""T5's conditions: tokens of T5 after those of two CLIPs for Stable Diffusion 3; T5's alone and CLIP's pooled output
for Flux."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.cond import Cond
from core.condition import Batch
from core.text.pretrained import T5, Clip, PretrainedEncoder, PretrainedText, captions_of


class Sd3Text(PretrainedText):
    """Stable Diffusion 3's condition (2403.03206, section 4): three encoders, the last of which may be left out.

    ``cond.tokens`` are the penultimate states of the CLIPs side by side, filled with zeros to the width of the
    network's text, and after them T5's; ``cond.vector`` is what the CLIPs pool, side by side. There is no mask.
    """

    def __init__(self, clips: Sequence[Clip], t5: T5 | None, width: int, length: int = 256) -> None:
        """width: of the network's text; length: of T5's, zeros where there is none (256 in diffusers, 77 published)."""
        super().__init__()
        self.clips = torch.nn.ModuleList(clips)
        self.t5 = t5
        self.width = width
        self.length = length

    def encoders(self) -> list[PretrainedEncoder]:
        clips: list[PretrainedEncoder] = [clip for clip in self.clips if isinstance(clip, PretrainedEncoder)]
        return clips if self.t5 is None else [*clips, self.t5]

    def encode(self, captions: Sequence[str]) -> Cond:
        """Raises ValueError when the CLIPs say more than the network's text is wide."""
        outputs = [clip.encode(captions) for clip in self.clips if isinstance(clip, Clip)]
        clip_states = torch.cat([found.states[-2] for found in outputs], dim=-1)
        if clip_states.shape[-1] > self.width:
            raise ValueError(
                f"CLIPs of {clip_states.shape[-1]} numbers a token do not fit a text of width {self.width}"
            )
        clip_states = F.pad(clip_states, (0, self.width - clip_states.shape[-1]))
        tokens = torch.cat([clip_states, self._t5_tokens(captions, clip_states)], dim=1)
        return Cond(vector=torch.cat([found.pooled for found in outputs], dim=-1), tokens=tokens)

    def _t5_tokens(self, captions: Sequence[str], like: Tensor) -> Tensor:
        if self.t5 is None:
            return like.new_zeros(len(captions), self.length, self.width)
        return self.t5.encode(captions).to(like.dtype)


class FluxText(PretrainedText):
    """Flux's condition: ``cond.tokens`` (B, length, width) from T5, ``cond.vector`` what CLIP pools; no mask.

    A network with a guidance embedding takes the scale as ``cond.guidance``, from ``batch["guidance"]`` (B,) or for
    all.
    """

    def __init__(self, clip: Clip, t5: T5, guidance: float | None = 3.5) -> None:
        """guidance: the scale where a batch has none; None for a network without guidance embedding (schnell)."""
        super().__init__()
        self.clip = clip
        self.t5 = t5
        self.guidance = guidance

    def encoders(self) -> list[PretrainedEncoder]:
        return [self.clip, self.t5]

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError for captions that are no text, and for guidance that is not a finite number."""
        captions = captions_of(batch)
        return self._condition(captions, batch.get("guidance", self.guidance))

    def encode(self, captions: Sequence[str]) -> Cond:
        return self._condition(captions, self.guidance)

    def _condition(self, captions: Sequence[str], guidance: Tensor | float | None) -> Cond:
        tokens, pooled = self.t5.encode(captions), self.clip.encode(captions).pooled
        if self.guidance is None or guidance is None:
            return Cond(vector=pooled, tokens=tokens)
        scale = torch.as_tensor(guidance, dtype=torch.float32, device=pooled.device)
        if not bool(scale.isfinite().all()):
            raise ValueError("the guidance that a network imitates must be a finite number")
        return Cond(vector=pooled, tokens=tokens, guidance=scale.expand(len(pooled)))
