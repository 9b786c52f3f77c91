"""What pictures decide of the model that is made of them: its size, channels and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.media.picture import Size
from core.text.words import words
from image.arrays import open_arrays
from image.augment import mirror_fits
from image.data import open_parts
from image.folder import open_files
from image.source import size_of

LONGEST = 128  # of a side that is chosen; a larger one has to be asked for
COMMON = 0.9  # the share of the pictures that must have one size for it to be taken as it is
DIVIDES = 8  # both sides of a size that is chosen
LOOKED_AT = 256  # pictures from which colour and deviation are found


def picture_arguments(path: Path) -> dict[str, Any]:
    """The arguments of a preset ``own`` that pictures decide. Raises DataError for what cannot be read."""
    if path.suffix.casefold() == ".npz" and path.is_file():
        images, facts = open_arrays(path)
        size, channels = chosen_size(Counter([(int(images.shape[-2]), int(images.shape[-1]))])), int(images.shape[1])
        train = open_parts(path, size, channels).train
        shown: torch.Tensor = train.get(spaced(len(train)))["x"]
    else:
        source = open_files(path).source
        facts, size = source.facts, chosen_size(Counter(size_of(source, index) for index in range(len(source))))
        train = open_parts(path, size, 3).train
        shown = train.get(spaced(len(train)))["x"]
        # What is grey everywhere needs one channel.
        channels = 1 if bool((shown[:, :1] == shown).all()) else 3
        shown = shown[:, :channels]
    return {
        "size": list(size),
        "channels": channels,
        "classes": list(facts.classes),
        "deviation": round(max(float(shown.std()), 0.05), 3),
        "length": _tokens(facts.captions or ()),
        "mirror": mirror_fits(train, facts.classes),
    }


def chosen_size(sizes: Counter[Size]) -> Size:
    """The size that nearly all pictures have or, where they differ, a square; no side longer than LONGEST."""
    (height, width), count = sizes.most_common(1)[0]
    if count < COMMON * sizes.total():
        sides = sorted(min(size) for size in sizes.elements())
        height = width = max(DIVIDES, min(LONGEST, sides[len(sides) // 2]) // DIVIDES * DIVIDES)
    longest = max(height, width)
    if longest <= LONGEST:
        return (height, width)
    return (_scaled(height, longest), _scaled(width, longest))


def _scaled(side: int, longest: int) -> int:
    return max(DIVIDES, round(side * LONGEST / longest / DIVIDES) * DIVIDES)


def spaced(count: int) -> list[int]:
    """Up to LOOKED_AT numbers below ``count``, evenly spread."""
    return sorted({round(place) for place in torch.linspace(0, count - 1, LOOKED_AT).tolist()})


def _tokens(captions: Sequence[str]) -> int:
    """The tokens of the longest caption, its first included."""
    return 1 + max((len(words(caption)) for caption in captions), default=0)
