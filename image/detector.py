"""Caption accuracy by detection: a small detector trained on real renders finds the digits of a picture.

Every cell of a grid predicts whether a digit is centred there, which one, and in which colour. Detections are matched
with the caption: the share of asked digits that are there, that have their colour, and of pictures whose items lie
where the caption places them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.evaluation.judge import train_judge
from image.captions import COLOURS, SIDE, CaptionedDigits, Item, Scene

CELL = 4  # pixels
GRID = SIDE // CELL
NAMES = list(COLOURS)


@dataclass(frozen=True)
class Detection:
    """A digit that was found in a picture."""

    digit: int
    colour: str
    centre: tuple[float, float]  # x, y in pixels


class Detector(nn.Module):
    """(B, 3, 32, 32) in [-1, 1] -> for each of 8 x 8 cells: presence, 10 digits, the colours, the centre in it."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        channels = 1 + 10 + len(NAMES) + 2

        def layer(inner: int, outer: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(inner, outer, 3, stride, dilation, dilation, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(outer), nn.ReLU())

        self.body = nn.Sequential(
            layer(3, width // 2),
            layer(width // 2, width, 2),
            layer(width, width),
            layer(width, 2 * width, 2),
            layer(2 * width, 2 * width),
            layer(2 * width, 2 * width, dilation=2),
        )
        self.head = nn.Conv2d(2 * width, channels, 1)

    def hidden(self, images: Tensor) -> Tensor:
        """The last hidden layer: (B, 3, 32, 32) -> (B, 2 width, 8, 8)."""
        found: Tensor = self.body(images.clamp(-1, 1))
        return found

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.head(self.hidden(images))
        return answer

    @torch.no_grad()
    def detect(self, images: Tensor, threshold: float = 0.2) -> list[list[Detection]]:
        """What each picture shows: cells that are surer than their neighbours, and surer than the threshold."""
        answer = torch.cat([self(part) for part in images.split(256)])
        present = answer[:, 0].sigmoid()
        peak = (present == F.max_pool2d(present[:, None], 3, 1, 1)[:, 0]) & (present > threshold)
        digits, colours = answer[:, 1:11].argmax(1), answer[:, 11 : 11 + len(NAMES)].argmax(1)
        found: list[list[Detection]] = [[] for _ in images]
        for row, y, x in peak.nonzero().tolist():
            dx, dy = answer[row, -2:, y, x].sigmoid().tolist()
            centre = ((x + dx) * CELL, (y + dy) * CELL)
            found[row].append(Detection(int(digits[row, y, x]), NAMES[int(colours[row, y, x])], centre))
        return found


def targets(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Where the items lie, (M, 3) as row, cell y, cell x, and the detector's targets there, (M, 4)."""
    places, wanted = [], []
    for row, seen in enumerate(scenes):
        for item in seen.items:
            x, y = (min(max(c / CELL, 0), GRID - 1e-3) for c in item.centre)
            places.append([row, int(y), int(x)])
            wanted.append([item.digit, NAMES.index(item.colour), x % 1, y % 1])
    return torch.tensor(places), torch.tensor(wanted)


def train_detector(data: CaptionedDigits, steps: int = 1200, batch: int = 64, seed: int = 0) -> Detector:
    """Train a detector on real renders, slightly noisy and blurred; two or three minutes on one core."""

    def losses(detector: Detector) -> Iterator[Tensor]:
        for step in range(steps):
            shown = data.get([(step * batch + row) % len(data) for row in range(batch)])
            images = shown["x"] + 0.15 * torch.rand(batch, 1, 1, 1) * torch.randn_like(shown["x"])
            blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
            images = images.lerp(blurred, torch.rand(batch, 1, 1, 1))
            yield _loss(detector(images), shown["scene"])

    return train_judge(Detector, losses, 3e-3, steps, seed=seed)


def _loss(answer: Tensor, scenes: Sequence[Scene]) -> Tensor:
    places, wanted = targets(scenes)
    row, y, x = places.unbind(1)
    present = torch.zeros_like(answer[:, 0])
    present[row, y, x] = 1
    predicted = answer[row, :, y, x]  # (M, channels)
    return (
        10 * F.binary_cross_entropy_with_logits(answer[:, 0], present)
        + F.cross_entropy(predicted[:, 1:11], wanted[:, 0].long())
        + F.cross_entropy(predicted[:, 11 : 11 + len(NAMES)], wanted[:, 1].long())
        + F.mse_loss(predicted[:, -2:].sigmoid(), wanted[:, 2:])
    )


@dataclass(frozen=True)
class CaptionAccuracy:
    """Shares in [0, 1] over what the captions ask for."""

    digit: float  # of asked items
    colour: float  # of asked items
    place: float  # of pictures
    count: float  # of pictures: as many digits as asked
    whole: float  # of pictures: everything right


def caption_accuracy(detector: Detector, images: Tensor, scenes: Sequence[Scene]) -> CaptionAccuracy:
    """Read pictures (N, 3, 32, 32) and compare with the scenes that their captions describe.

    An asked item is compared with one found item at most: of all matchings, one with the most agreement in
    digit and colour, and of those one where the places agree.
    """
    digit = colour = items = place = count = whole = 0
    for seen, asked in zip(detector.detect(images), scenes, strict=True):
        pairs = _match(seen, asked)
        digits = sum(found.digit == item.digit for item, found in pairs)
        colours = sum(found.colour == item.colour for item, found in pairs)
        placed = len(pairs) == len(asked.items) and placed_as_captioned(asked, [found for _, found in pairs])
        counted = len(seen) == len(asked.items)
        digit, colour, items = digit + digits, colour + colours, items + len(asked.items)
        place, count = place + placed, count + counted
        whole += placed and counted and digits == colours == len(asked.items)
    total = len(scenes)
    return CaptionAccuracy(digit / items, colour / items, place / total, count / total, whole / total)


def _match(seen: Sequence[Detection], asked: Scene) -> list[tuple[Item, Detection]]:
    """The best pairs of asked and found items; asked items without a partner are left out."""
    most = min(len(seen), len(asked.items))

    def worth(pairs: Sequence[tuple[Item, Detection]]) -> float:
        agreement = sum((found.digit == item.digit) + (found.colour == item.colour) for item, found in pairs)
        whole = len(pairs) == len(asked.items)
        return agreement + (0.5 if whole and placed_as_captioned(asked, [found for _, found in pairs]) else 0)

    matchings = (
        list(zip(items, found))
        for items in itertools.combinations(asked.items, most)
        for found in itertools.permutations(list(seen)[:6], most)
    )
    return max(matchings, key=worth, default=[])


def placed_as_captioned(asked: Scene, found: Sequence[Detection]) -> bool:
    """Whether found items, in the order of the asked ones, lie where the caption places them."""
    if asked.place is not None:
        return all(_third(c) == place for c, place in zip(found[0].centre, asked.place))
    along = [item.centre[asked.axis] for item in found]
    across = [item.centre[1 - asked.axis] for item in found]
    if asked.reversed:
        along.reverse()
    in_order = all(first < second for first, second in itertools.pairwise(along))
    return in_order and max(along) - min(along) > max(across) - min(across)


def _third(position: float) -> int:
    """Which third of the picture a coordinate lies in: -1, 0 or 1."""
    return (position > SIDE * 0.4) + (position > SIDE * 0.6) - 1
