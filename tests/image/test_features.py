"""timm's networks as features: exactly what they see, with weights from a file or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from core.evaluation.distances import features, frechet
from core.weights.checkpoint import CheckpointError
from image.features import timm_features

NAME = "test_resnet"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model(NAME, pretrained=False, num_classes=7).eval()
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point():
                value.copy_(
                    1 + 0.1 * torch.rand_like(value)
                    if "norm" in name or "var" in name
                    else 0.1 * torch.randn_like(value)
                )
    return made


@pytest.fixture(scope="module")
def weights(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return path


def images(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(4, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_features_are_the_network_s_own(network: nn.Module, weights: Path) -> None:
    about = network.pretrained_cfg
    size = tuple(about["input_size"][1:])
    mean, deviation = (torch.tensor(about[name]).view(3, 1, 1) for name in ("mean", "std"))
    seen = timm_features(NAME, weights)
    for x in (images(*size), images(50, 70)):
        pixels = x / 2 + 0.5
        if x.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            maps = network.forward_features((pixels - mean) / deviation)
            expected = network.forward_head(maps, pre_logits=True)
        torch.testing.assert_close(seen(x), expected, atol=1e-5, rtol=1e-5)
    grey = images(*size, channels=1)
    assert torch.equal(seen(grey), seen(grey.expand(-1, 3, -1, -1)))
    far = features(seen, images(*size) * 0.3, batch=2)
    assert far.shape == (4, network.num_features) and frechet(far, features(seen, images(*size))).value > 0


def test_a_file_without_a_head_will_do(network: nn.Module, weights: Path, tmp_path: Path) -> None:
    head = network.pretrained_cfg["classifier"]
    body = {name: value.contiguous() for name, value in network.state_dict().items() if not name.startswith(head)}
    save_file(body, tmp_path / "body.safetensors")
    x = images(64, 64)
    assert torch.equal(timm_features(NAME, tmp_path / "body.safetensors")(x), timm_features(NAME, weights)(x))


def test_random_features_must_be_asked_for() -> None:
    with pytest.raises(ValueError, match=r"has no weights: give a .safetensors file"):
        timm_features(NAME)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = (timm_features(NAME, random_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    x = images(64, 64)
    assert torch.equal(one(x), two(x)) and not torch.equal(one(x), other(x))


def test_what_does_not_fit_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit the model"):
        timm_features("test_vit", weights)
    with pytest.raises(ValueError, match="no network called 'test_resnt'"):
        timm_features("test_resnt", weights)
    with pytest.raises(ValueError, match="leave one out"):
        timm_features(NAME, weights, random_seed=0)
    with pytest.raises(CheckpointError, match="does not exist"):
        timm_features(NAME, tmp_path / "nowhere.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:999])
    with pytest.raises(CheckpointError, match="cut short"):
        timm_features(NAME, tmp_path / "cut.safetensors")
