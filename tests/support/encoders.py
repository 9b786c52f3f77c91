"""Text encoders of the tiny pipelines: ours, and diffusers' beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from core.text.pretrained import Clip, open_clip

CAPTIONS = ["a red cat, and a dog", "dog! " * 60, ""]


def opened(folder: Path) -> Any:
    """diffusers' pipeline."""
    return DiffusionPipeline.from_pretrained(folder, local_files_only=True)


def clip_of(folder: Path, number: str = "") -> Clip:
    """The CLIP of a pipeline's folder, by the number in the names of its parts."""
    return open_clip(folder / f"tokenizer{number}", folder / f"text_encoder{number}")


def same(found: Tensor | None, expected: Tensor) -> None:
    """Equal within 1e-6."""
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
