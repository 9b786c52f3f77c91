"""The CLIP score against its definition, on a tiny CLIP model with random weights saved as a folder."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from core.evaluation.options import EvaluationOptions
from image.clip_score import DEVIATION, MEAN, ClipScore
from image.evaluation import published

CAPTIONS = ["a red seven", "two", "a small blue two on white", "", "seven " * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("clip")
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    words = [*letters, "<|startoftext|>", "<|endoftext|>"]
    (home / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (home / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(home / "vocab.json"), str(home / "merges.txt"), model_max_length=16).save_pretrained(home)
    shared = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = len(words) - 1
    text = {"vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": end - 1, "eos_token_id": end}
    config = CLIPConfig(
        text_config=shared | text | {"pad_token_id": end},
        vision_config=shared | {"image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            value.copy_(1 + 0.1 * torch.randn_like(value) if norm else 0.3 * torch.randn_like(value))
    model.save_pretrained(home)
    return home


def images(height: int, width: int, count: int = len(CAPTIONS)) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_it_is_the_definition(folder: Path) -> None:
    """Embeddings of the whole model's forward pass, each caption by itself and cut by hand."""
    score, model = ClipScore(folder), CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    x = images(32, 32)
    pixels = (x / 2 + 0.5 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    expected, raw = [], []
    for caption, picture in zip(CAPTIONS, pixels):
        ids = tokenizer(caption)["input_ids"]
        ids = ids if len(ids) <= 16 else [*ids[:15], ids[-1]]
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids]), pixel_values=picture[None])
        shown, text_embedding = (each[0] / each[0].norm() for each in (out.image_embeds, out.text_embeds))
        raw.append(float(shown @ text_embedding))
        expected.append(100 * max(raw[-1], 0))
    torch.testing.assert_close(score(x, CAPTIONS), torch.tensor(expected), atol=1e-4, rtol=1e-5)
    assert min(raw) < 0 < max(raw)  # both sides of the clamp
    whole = score.mean_of(x, CAPTIONS, batch=2)
    assert whole.value == pytest.approx(sum(expected) / 5, abs=1e-4) and whole.low <= whole.value <= whole.high


def test_images_are_cropped_in_the_middle_and_normalised(folder: Path, tmp_path: Path) -> None:
    score = ClipScore(folder)
    wide = images(32, 48)
    assert torch.equal(score.prepared(wide), score.prepared(wide[..., 8:40]))
    assert score.prepared(images(100, 64)).shape[-2:] == (32, 32)
    flat = torch.full((1, 1, 70, 50), 0.2)
    torch.testing.assert_close(
        score.prepared(flat)[0, :, 5, 5], (0.6 - torch.tensor(MEAN)) / torch.tensor(DEVIATION), atol=1e-5, rtol=0
    )
    shutil.copytree(folder, tmp_path / "own")
    (tmp_path / "own" / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    torch.testing.assert_close(ClipScore(tmp_path / "own").prepared(flat)[0, :, 5, 5], torch.full((3,), 0.6))


def test_what_is_no_whole_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no CLIP model"):
        ClipScore(tmp_path)
    shutil.copytree(folder, tmp_path / "lacking")
    file = tmp_path / "lacking" / "model.safetensors"
    content = load_file(file)
    save_file(
        {name: value for name, value in content.items() if name != "text_projection.weight"}, file, {"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"lack text_projection.weight: get the folder again"):
        ClipScore(tmp_path / "lacking")
    file.write_bytes((folder / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ValueError, match="holds no whole CLIP model"):
        ClipScore(tmp_path / "lacking")
    file.unlink()
    with pytest.raises(ValueError, match="holds no whole CLIP model"):
        ClipScore(tmp_path / "lacking")
    with pytest.raises(ValueError, match="5 images have 1 captions"):
        ClipScore(folder)(images(32, 32), ["one"])


def test_it_judges_samples_in_the_place_of_a_judge(folder: Path) -> None:
    """Its embeddings of pictures and captions are the features and the retrieval of an evaluation."""
    backbone = published(EvaluationOptions(features=folder))
    assert backbone is not None and backbone.texts is not None
    x = images(40, 40)
    cosine = F.cosine_similarity(backbone.view({"x": x}), backbone.texts(CAPTIONS))
    torch.testing.assert_close(100 * cosine.clamp(min=0), ClipScore(folder)(x, CAPTIONS))
    torch.testing.assert_close(backbone.texts(CAPTIONS).norm(dim=1), torch.ones(len(CAPTIONS)))
