"""Evaluation of pictures against one's own data: see ``core.evaluation.own``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from core.data.dataset import Dataset
from core.evaluation import own
from core.evaluation.backbone import Backbone, perceptron
from core.evaluation.options import EvaluationOptions
from core.model import Prepare
from image.backbone import PICTURES
from image.clip_score import ClipScore
from image.features import timm_features

WEIGHTS = "model.safetensors"


def evaluator(parts: Callable[[], tuple[Dataset, Dataset]]) -> Prepare:
    """An evaluation of pictures that reads its data and trains its judges when it is called."""
    return own.evaluator(parts, PICTURES, published)


def published(options: EvaluationOptions) -> Backbone | None:
    """The features of ``options.features``: a CLIP folder, or a network of timm as a folder or a .safetensors file.

    A folder has a config.json; a file is named after the network. Raises ValueError for anything else.
    """
    path = options.features
    if path is None:
        return None
    if path.is_file():
        return _of_network(timm_features(path.stem, path))
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} holds no network: give a folder of CLIP or of timm with its config.json, or a .safetensors file "
            "that is named after a network of timm"
        ) from error
    if "architecture" in config:
        return _of_network(timm_features(config["architecture"], path / WEIGHTS))
    return _of_clip(path)


def _of_network(network: Callable[[Tensor], Tensor]) -> Backbone:
    def view(batch: Mapping[str, Any]) -> Tensor:
        return network(batch["x"].float())

    return Backbone(view, perceptron, noun=PICTURES.noun, published=True)


def _of_clip(path: Path) -> Backbone:
    clip = ClipScore(path)

    def view(batch: Mapping[str, Any]) -> Tensor:
        return clip.of_images(batch["x"].float())

    def texts(captions: Sequence[str]) -> Tensor:
        return F.normalize(clip.of_texts(captions), dim=-1)

    return Backbone(view, perceptron, noun=PICTURES.noun, published=True, texts=texts)
