"""The evaluator of pictures: of any size and number of channels, within its time, and in features that are at hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from core.evaluation import names
from core.evaluation.interval import ConfidenceInterval
from core.evaluation.options import EvaluationOptions
from core.evaluation.own import OwnEvaluation
from image.backbone import FEATURES, PICTURES, SEEN
from image.data import digits
from image.evaluation import evaluator, published


@dataclass(frozen=True)
class Squares:
    """A bright square on the left or the right of noise."""

    count: int
    seed: int
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return self.count

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        _, height, width = self.shape
        x = torch.randn(self.count, *self.shape, generator=torch.Generator().manual_seed(self.seed)) * 0.3 - 0.5
        label = torch.arange(self.count) % 2
        half = width // 2
        x[label == 0, :, : height // 2, :half] += 0.8
        x[label == 1, :, : height // 2, half:] += 0.8
        rows = torch.tensor(indices)
        return {"x": x[rows].clamp(-1, 1), "label": label[rows]}


def value(found: object) -> float:
    assert isinstance(found, ConfidenceInterval)
    return found.value


def test_digits_are_read_and_blur_is_seen() -> None:
    train, held_out = digits()
    found = evaluator(lambda: (train, held_out))(EvaluationOptions(8.0))
    rows = range(300)
    x, asked = train.get(rows)["x"], {"label": train.get(rows)["label"]}
    copies, blurred = (
        found(pictures, asked) for pictures in (x, F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear"))
    )
    assert value(copies[names.AS_ASKED]) > 0.95 and value(copies[names.AS_ASKED + names.REAL]) > 0.9
    assert value(copies[names.MEMORISED]) > 0.95 and value(blurred[names.MEMORISED]) < 0.9
    for name in (names.FRECHET, names.DETAIL):
        clear, dull = copies[name], blurred[name]
        assert isinstance(clear, ConfidenceInterval) and isinstance(dull, ConfidenceInterval)
        assert clear.high < dull.low


@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 20, 30), (4, 100, 75), (2, 1, 200)])
def test_any_size_and_number_of_channels_is_seen(shape: tuple[int, int, int]) -> None:
    data = Squares(120, 0, shape), Squares(60, 1, shape)
    found = evaluator(lambda: data)(EvaluationOptions(6.0))
    assert isinstance(found, OwnEvaluation)
    batch = Squares(40, 2, shape).get(range(40))
    figures = found(batch["x"], {"label": batch["label"]})
    assert max(found.train.views.shape[-2:]) <= SEEN
    assert value(figures[names.AS_ASKED + names.REAL]) >= 0.5


def test_what_augmentations_change_and_leave() -> None:
    x = Squares(8, 0, (3, 24, 24)).get(range(8))["x"]
    torch.manual_seed(0)
    for change in (PICTURES.augment, PICTURES.distort):
        one, two = change(x), change(x)
        assert one.shape == x.shape and not torch.equal(one, two)
        near = F.cosine_similarity(one.flatten(1), x.flatten(1)).mean()
        others = F.cosine_similarity(one.flatten(1), x.flip(0).flatten(1)).mean()
        assert float(near) > float(others) - 0.05
    assert PICTURES.network(x[:1])(x).shape == (8, FEATURES)


def of_network(path: Path) -> Tensor:
    backbone = published(EvaluationOptions(features=path))
    assert backbone is not None and backbone.published
    return backbone.view(Squares(4, 0, (3, 24, 24)).get(range(4)))


def test_a_network_of_timm_takes_the_place_of_the_judge(tmp_path: Path) -> None:
    """As a folder with its configuration, or a file that is named after it."""
    torch.manual_seed(0)
    weights = timm.create_model("test_resnet", pretrained=False, num_classes=0).state_dict()
    state = {name: tensor.contiguous() for name, tensor in weights.items()}
    (tmp_path / "folder").mkdir()
    for file in (tmp_path / "test_resnet.safetensors", tmp_path / "folder" / "model.safetensors"):
        save_file(state, file)
    (tmp_path / "folder" / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    assert torch.equal(of_network(tmp_path / "folder"), of_network(tmp_path / "test_resnet.safetensors"))
    parts = Squares(150, 0, (3, 24, 24)), Squares(60, 1, (3, 24, 24))
    found = evaluator(lambda: parts)(EvaluationOptions(2.0, features=tmp_path / "folder"))
    assert isinstance(found, OwnEvaluation) and found.train.views.ndim == 2
    batch = Squares(50, 2, (3, 24, 24)).get(range(50))
    assert names.FRECHET in found(batch["x"], {"label": batch["label"]})
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="holds no network"):
            published(EvaluationOptions(features=wrong))
    assert published(EvaluationOptions()) is None
