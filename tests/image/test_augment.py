"""Mirrored pictures are learned from only where they are like the others, and every pixel and fact goes along."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.cache.latents import InMemory, encoded_once
from core.codec import Codec
from core.data.dataset import Batch, DataError, varies
from core.data.order import OrderedDataset
from core.random import TrainingRNG
from image.arrays import Frame, ImageArray
from image.augment import WithMirrored, mirror_fits, orientation_accuracy
from image.data import digits


def blobs(count: int, light: float = 0.0, seed: int = 0) -> Tensor:
    """Pictures (N, 3, 24, 24) of a few soft spots anywhere, and light that falls from the left, or not."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.linspace(-1, 1, 24)
    at, width, colour = (
        torch.rand(count, 3, size, generator=generator) * scale - shift
        for size, scale, shift in ((2, 1.6, 0.8), (1, 0.3, -0.1), (3, 2.0, 1.0))
    )
    spots = torch.exp(
        -((grid[:, None] - at[..., :1, None]).square() + (grid - at[..., 1:, None]).square()) / width[..., None] ** 2
    )
    return (spots[:, :, None] * colour[..., None, None]).sum(1).clamp(-1, 1) - light * grid


def arrows(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Wedges (N, 1, 16, 16) that point left or right, and which."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (count,), generator=generator)
    x = torch.randn(count, 1, 16, 16, generator=generator) * 0.3
    x[..., 4:12] += torch.linspace(-1, 1, 8) * (2 * label - 1)[:, None, None, None]
    return x, label


def test_pictures_without_a_side_fit() -> None:
    assert mirror_fits(ImageArray(blobs(500)))
    assert mirror_fits(ImageArray(blobs(60)))
    assert 0.4 < orientation_accuracy(blobs(500)[..., ::2, ::2]) < 0.6
    both = blobs(200)
    assert mirror_fits(ImageArray(torch.cat([both, both.flip(-1)])))


def test_light_from_one_side_does_not() -> None:
    assert not mirror_fits(ImageArray(blobs(500, light=0.3)))
    assert not mirror_fits(ImageArray((127.5 * (blobs(500, light=0.3).clamp(-1, 1) + 1)).byte()))


def test_digits_do_not() -> None:
    train, _ = digits()
    assert not mirror_fits(train)
    assert not mirror_fits(ImageArray(train.images[:80]))


def test_each_class_counts_for_itself() -> None:
    """Where one class is the mirrored version of another, all together have no side."""
    x, label = arrows(400)
    assert mirror_fits(ImageArray(x)) and not mirror_fits(ImageArray(x, label))
    shuffled = label[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    assert mirror_fits(ImageArray(x, shuffled))


def test_words_of_sides_are_believed() -> None:
    images = ImageArray(blobs(100))
    for caption, fits in (
        ("a spot, upright and bright", True),
        ("a spot on the Left", False),
        ("the rightmost spot", False),
        ("a counter-clockwise arrow", False),
    ):
        captions = ["a spot"] * 99 + [caption]
        assert mirror_fits(replace(images, captions=captions)) == fits, caption
    assert not mirror_fits(images, ("turn left", "straight on"))
    assert not mirror_fits(images, ("a", "b", "c")) and mirror_fits(images, ("cat", "dog"))


def test_few_pictures_say_nothing() -> None:
    assert not mirror_fits(ImageArray(blobs(30)))
    copies = blobs(30).repeat(10, 1, 1, 1)
    assert not mirror_fits(ImageArray(copies))
    assert mirror_fits(ImageArray(blobs(100).repeat(5, 1, 1, 1)))  # which would otherwise recognize each other


def test_it_is_quick_and_takes_the_same_pictures_each_time() -> None:
    many = ImageArray((127.5 * (blobs(3000).clamp(-1, 1) + 1)).byte())
    read: list[list[int]] = []

    @dataclass(frozen=True)
    class Reading:
        def __len__(self) -> int:
            return len(many)

        def get(self, indices: Sequence[int]) -> Batch:
            read.append(list(indices))
            return many.get(indices)

    began = time.process_time()
    assert mirror_fits(Reading()) and mirror_fits(Reading())
    assert time.process_time() - began < 20
    assert read[0] == read[1] and len(set(read[0])) == 2000


def pictures() -> ImageArray:
    """Of 10 x 20 scaled to 8 x 16, of which 8 x 8 are left, and their facts."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, 8, 8, generator=generator)
    frame = Frame(torch.tensor([[10.0, 20.0]] * 3), torch.tensor([[0.0, 0.0], [0.0, 3.0], [0.0, 8.0]]))
    return ImageArray(images, torch.tensor([4, 5, 6]), ["a", "b", "c"], frame)


def test_both_versions_are_in_the_data() -> None:
    data = pictures()
    both = WithMirrored(data)
    assert len(both) == 6 and both.shape == (1, 8, 8) and not varies(both)
    batch = both.get([1, 4, 5])
    assert torch.equal(batch["x"], torch.stack([data.images[1], data.images[1].flip(-1), data.images[2].flip(-1)]))
    assert batch["label"].tolist() == [5, 5, 6] and batch["caption"] == ["b", "b", "c"]
    assert batch["crop"].tolist() == [[0, 3], [0, 5], [0, 0]]
    seen = torch.cat([OrderedDataset(both, 0)[range(start, start + 2)]["x"] for start in (0, 2, 4)])
    assert sorted(seen.flatten(1).sum(1).tolist()) == pytest.approx(sorted(data.images.flatten(1).sum(1).tolist() * 2))
    assert len({tuple(row) for row in seen.flatten(1).tolist()}) == 6


def test_what_is_followed_is_mirrored_too() -> None:
    @dataclass(frozen=True)
    class Followed:
        def __len__(self) -> int:
            return 1

        def get(self, indices: Sequence[int]) -> Batch:
            x = torch.arange(8.0).view(1, 1, 2, 4).repeat(len(indices), 1, 1, 1)
            return {"x": x, "control": x.byte()}

    batch = WithMirrored(Followed()).get([0, 1])
    assert torch.equal(batch["control"][1], batch["control"][0].flip(-1)) and batch["control"].dtype == torch.uint8


class Half(Codec):
    """Latents that are not those of the mirrored picture, mirrored."""

    @property
    def costly(self) -> bool:
        return True

    def moments(self, data: Tensor) -> Tensor:
        return data[..., :4] * torch.arange(1.0, 5.0)


@pytest.mark.parametrize("memory", [2**20, 0])
def test_latents_of_both_are_kept(tmp_path: Path, memory: int) -> None:
    data, codec = pictures(), Half()
    kept = encoded_once(WithMirrored(data), codec, None, torch.device("cpu"), tmp_path, memory)
    assert len(kept) == 6 and isinstance(kept, InMemory) == bool(memory)
    found = kept.get([0, 3])["moments"]
    assert torch.equal(found[0], codec.moments(data.images[0])) and torch.equal(
        found[1], codec.moments(data.images[0].flip(-1))
    )


def test_random_crops_stay_random() -> None:
    @dataclass(frozen=True)
    class Drawn:
        random = True

        def __len__(self) -> int:
            return 2

        def get(self, indices: Sequence[int]) -> Batch:
            raise AssertionError("it has to be changed at random")

        def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> Batch:
            return {
                "x": torch.tensor([[[[float(index), float(place)]]] for index, place in zip(indices, rng.positions)])
            }

    both = WithMirrored(Drawn())
    assert varies(both)
    assert both.get_augmented([1, 3], TrainingRNG(0, [7, 9]))["x"].flatten(1).tolist() == [[1, 7], [9, 1]]


def test_data_with_an_order_are_refused() -> None:
    kept = InMemory(pictures(), lambda batch: {"moments": batch["x"]})
    with pytest.raises(DataError, match="order of their own"):
        WithMirrored(kept)
