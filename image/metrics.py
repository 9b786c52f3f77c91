"""Features of small images: a classifier trained on the real ones gives features and labels.

Large images want a published network instead: anything that maps (B, C, H, W) in [-1, 1] to (B, D) can be handed to the
metrics of ``core.evaluation.distances`` as features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.evaluation.judge import train_judge


class Classifier(nn.Module):
    """A small convolutional classifier: (B, C, H, W) in [-1, 1] -> (B, classes)."""

    def __init__(self, channels: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * width, width),
            nn.ReLU(),
        )
        self.head = nn.Linear(width, classes)

    def features(self, images: Tensor) -> Tensor:
        """The last hidden layer: (B, C, H, W) -> (B, width)."""
        found: Tensor = self.body(images.clamp(-1, 1))
        return found

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def train_classifier(images: Tensor, labels: Tensor, epochs: int = 60, batch: int = 64, seed: int = 0) -> Classifier:
    """Train a classifier on labelled real images, a little noise added; seconds for thousands of small ones."""

    def losses(classifier: Classifier) -> Iterator[Tensor]:
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(batch):
                noisy = images[rows] + 0.1 * torch.randn_like(images[rows])
                yield F.cross_entropy(classifier(noisy), labels[rows])

    return train_judge(lambda: Classifier(images.shape[1], int(labels.max()) + 1), losses, 1e-3, seed=seed)


@torch.no_grad()
def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of images that the classifier assigns to their label."""
    return float((classifier(images).argmax(-1) == labels).float().mean())
