"""Features of large images for the metrics, from a published network of timm.

The metrics of ``core.evaluation.distances`` take features of any kind; published figures are of one network with one
set of weights, so the weights are read from a file that is at hand and nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.weights.checkpoint import fill, read


class PooledFeatures(nn.Module):
    """Images (B, 1 or 3, H, W) in [-1, 1] -> the pooled features (B, D) of a network at its size."""

    def __init__(self, network: nn.Module, size: tuple[int, int], mean: Tensor, deviation: Tensor) -> None:
        """mean and deviation (3,) are those of the network's training images in [0, 1]."""
        super().__init__()
        self.network = network
        self.size = size
        self.mean = nn.Buffer(mean.view(3, 1, 1).clone())
        self.deviation = nn.Buffer(deviation.view(3, 1, 1).clone())

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images.clamp(-1, 1) + 1) / 2
        if pixels.shape[-2:] != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        seen: Tensor = self.network((pixels.expand(-1, 3, -1, -1) - self.mean) / self.deviation)
        return seen


class FeatureMaps(nn.Module):
    """Images (B, 1 or 3, H, W) in [-1, 1] of any size -> some of a network's feature maps, for a perceptual loss."""

    def __init__(self, network: Any, layers: Sequence[int], mean: Tensor, deviation: Tensor) -> None:
        """layers: which of the maps that timm calls intermediates, finest first."""
        super().__init__()
        self.network = network
        self.layers = list(layers)
        self.mean = nn.Buffer(mean.view(3, 1, 1).clone())
        self.deviation = nn.Buffer(deviation.view(3, 1, 1).clone())

    def forward(self, images: Tensor) -> list[Tensor]:
        pixels = ((images + 1) / 2).expand(-1, 3, -1, -1)
        found: list[Tensor] = self.network.forward_intermediates(
            (pixels - self.mean) / self.deviation, indices=self.layers, intermediates_only=True
        )
        return found


def timm_maps(name: str, weights: Path, layers: Sequence[int] = (0, 1, 2, 3, 4)) -> FeatureMaps:
    """Feature maps of a network of timm; of VGG-16, the five that LPIPS compares (1801.03924).

    Raises ValueError where there is no such network, and CheckpointError where the file does not fit.
    """
    seen = timm_features(name, weights)
    return FeatureMaps(seen.network, layers, seen.mean, seen.deviation).eval().requires_grad_(False)


def timm_features(name: str, weights: Path | None = None, random_seed: int | None = None) -> PooledFeatures:
    """A network of timm by name, with the weights of a safetensors file, as a feature extractor for the metrics.

    ``random_seed`` asks for a network that has learned nothing: its figures compare with nothing but themselves.
    Raises ValueError where there is neither, or no such network, and CheckpointError where the file does not fit.
    """
    if weights is None and random_seed is None:
        raise ValueError(
            f"{name} has no weights: give a .safetensors file of them, or ask for random ones with a random_seed"
        )
    if weights is not None and random_seed is not None:
        raise ValueError("features have either weights or a random_seed: leave one out")
    if weights is None:
        # The caller's random numbers stay what they were.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_seed or 0)
            network = _network(name, 0)
    else:
        state = read(weights)
        network = _network(name, _classes(_network(name, 1).pretrained_cfg, state))
        fill(network, state, weights)
        if network.num_classes:
            network.reset_classifier(0)
    about = network.pretrained_cfg
    mean, deviation = torch.tensor(about["mean"]), torch.tensor(about["std"])
    seen = PooledFeatures(network, tuple(about["input_size"][1:]), mean, deviation)
    return seen.eval().requires_grad_(False)


def _network(name: str, classes: int) -> Any:
    # Imported here because it takes seconds.
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:3]) or "see timm.list_models()"
        raise ValueError(f"timm has no network called '{name}': {near}")
    return timm.create_model(name, pretrained=False, num_classes=classes)


def _classes(about: Mapping[str, Any], state: Mapping[str, Tensor]) -> int:
    """The number of classes of a file of weights; 0 without a head."""
    heads = about["classifier"]
    head = heads if isinstance(heads, str) else heads[0]
    found = state.get(f"{head}.weight")
    return 0 if found is None else len(found)
