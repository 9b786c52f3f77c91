"""CLIP score: agreement of images with their captions by a local CLIP model (2104.08718).

100 max(cos(image embedding, text embedding), 0)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from core.evaluation.interval import ConfidenceInterval, average

# How CLIP's training images were normalised, for folders without a preprocessor configuration.
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ClipScore:
    """Scores images by a CLIP model in a folder of ``transformers``' format; nothing is downloaded."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError, in one sentence, where the folder holds no whole CLIP model with its tokenizer."""
        # Imported here because it takes seconds.
        from transformers import AutoTokenizer, CLIPModel

        config = _json(folder / "config.json")
        if config is None or config.get("model_type") != "clip":
            raise ValueError(
                f"{folder} holds no CLIP model: give a folder with its config.json and .safetensors weights"
            )
        try:
            found: Any = CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
            raise ValueError(f"{folder} holds no whole CLIP model with its tokenizer: get the folder again") from error
        model, report = found
        if report["missing_keys"]:
            raise ValueError(f"the weights in {folder} lack {min(report['missing_keys'])}: get the folder again")
        self.model: Any = model.eval().requires_grad_(False)
        preprocessing = _json(folder / "preprocessor_config.json") or {}
        self.mean = torch.tensor(preprocessing.get("image_mean", MEAN)).view(3, 1, 1)
        self.deviation = torch.tensor(preprocessing.get("image_std", DEVIATION)).view(3, 1, 1)

    @torch.no_grad()
    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """The scores (B,) of images (B, 1 or 3, H, W) in [-1, 1] for their captions; long ones are cut."""
        if len(images) != len(captions):
            raise ValueError(f"{len(images)} images have {len(captions)} captions: give one for each")
        return 100 * F.cosine_similarity(self.of_images(images), self.of_texts(captions)).clamp(min=0)

    @torch.no_grad()
    def of_images(self, images: Tensor) -> Tensor:
        """The embeddings (B, D) of images (B, 1 or 3, H, W) in [-1, 1]."""
        found: Tensor = self.model.get_image_features(
            pixel_values=self.prepared(images).to(self.model.device)
        ).pooler_output
        return found.float().cpu()

    @torch.no_grad()
    def of_texts(self, captions: Sequence[str]) -> Tensor:
        """The embeddings (B, D) of captions; long ones are cut."""
        length = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(list(captions), padding=True, truncation=True, max_length=length, return_tensors="pt")
        found: Tensor = self.model.get_text_features(**words.to(self.model.device)).pooler_output
        return found.float().cpu()

    def prepared(self, images: Tensor) -> Tensor:
        """Images as CLIP sees them: the middle square, at its size, normalised."""
        size = self.model.config.vision_config.image_size
        pixels = (images.clamp(-1, 1) + 1) / 2
        height, width = pixels.shape[-2:]
        scaled = [max(size, round(side * size / min(height, width))) for side in (height, width)]
        if scaled != [height, width]:
            pixels = F.interpolate(pixels, scaled, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        square = pixels[..., top : top + size, left : left + size].expand(-1, 3, -1, -1)
        return (square - self.mean) / self.deviation

    def mean_of(self, images: Tensor, captions: Sequence[str], batch: int = 64) -> ConfidenceInterval:
        """The mean score of many images."""
        starts = range(0, len(images), batch)
        scores = [self(images[start : start + batch], captions[start : start + batch]) for start in starts]
        return average(torch.cat(scores))


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
