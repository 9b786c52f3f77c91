"""Buckets: the least distortion, batches of one shape, every picture once a pass, all a function of seed and step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from core.cache.disk import Cached, latents, model_hash
from core.codec import Scale
from core.cond import Cond
from core.data.buckets import bucket_sizes, nearest_bucket
from core.data.dataset import Batch, DataError
from core.data.folder import FolderSource
from core.data.order import BatchSharding, OrderedDataset, stream
from core.denoiser import Denoiser
from core.grid import trailing
from core.prediction import FlowVelocity
from core.recipe import Recipe, Sampling, Training
from core.sample.heun import heun
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.train.loop import steps
from core.train.state import prepare
from image.buckets import Bucketed
from image.folder import open_source
from image.modality import MODALITY

SHAPES = [(8, 16), (16, 8), (12, 12), (8, 32)]
COUNTS = {(20, 42): 13, (45, 20): 7, (30, 33): 26, (10, 40): 2}  # of pictures by height, width
TARGETS = dict(zip(COUNTS, [(8, 16), (16, 8), (12, 12), (8, 32)]))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    home = tmp_path_factory.mktemp("pictures")
    sizes = [size for size, count in COUNTS.items() for _ in range(count)]
    for number, (height, width) in enumerate(sizes):
        Image.new("RGB", (width, height), (number, 0, 0)).save(home / f"{number * 7 % 48:02d}-{number}.png")
        (home / f"{number * 7 % 48:02d}-{number}.txt").write_text(f"{height} {width}")
    found = open_source(home)
    assert isinstance(found, FolderSource)
    return found


def test_the_default_sizes_are_sdxl_s() -> None:
    sizes = bucket_sizes()
    assert len(sizes) == 33 and (1024, 1024) in sizes and sizes[0] == (512, 1856) and sizes[-1] == (2048, 512)
    for table in ((512, 2048), (640, 1536), (768, 1344), (832, 1216), (896, 1152), (1152, 896), (1216, 832)):
        assert table in sizes
    for height, width in sizes:
        assert height % 64 == width % 64 == 0 and 0.87 * 1024**2 < height * width <= 1024**2
        assert (width, height) in sizes and 1 / 4 <= height / width <= 4
    assert bucket_sizes(64, 8) == ((8, 8),)
    with pytest.raises(DataError, match="larger area"):
        bucket_sizes(63, 8)


def test_every_picture_goes_where_it_is_distorted_least() -> None:
    sizes = bucket_sizes(128 * 128, 16)
    for height in range(10, 200, 17):
        for width in range(10, 200, 13):
            chosen = sizes[nearest_bucket((height, width), sizes)]
            stretch = [abs(math.log(height * w / (width * h))) for h, w in sizes]
            assert abs(math.log(height * chosen[1] / (width * chosen[0]))) == min(stretch)


def test_batches_are_of_one_bucket_and_say_what_was_cut(source: FolderSource) -> None:
    data = OrderedDataset(Bucketed(source, SHAPES, batch=4), seed=0)
    seen = set()
    for (batch,) in islice(stream(data, BatchSharding(4), 0), 24):
        height, width = batch["x"].shape[2:]
        seen.add((height, width))
        assert batch["target"].tolist() == [[height, width]] * 4
        for caption, size in zip(batch["caption"], batch["size"].tolist()):
            assert caption == f"{size[0]:.0f} {size[1]:.0f}" and TARGETS[int(size[0]), int(size[1])] == (height, width)
    assert seen == set(SHAPES)


def test_parts_and_processes_share_a_bucket(source: FolderSource) -> None:
    data = OrderedDataset(Bucketed(source, SHAPES, batch=8), seed=0)
    for step in range(12):
        parts = [data[p] for rank in range(2) for p in BatchSharding(8, 2, rank, 2).positions(step)]
        assert len({part["x"].shape for part in parts}) == 1
        assert torch.equal(torch.cat([part["x"] for part in parts]), data[range(step * 8, step * 8 + 8)]["x"])


@pytest.mark.parametrize("batch", [1, 4, 5])
def test_every_picture_is_met_once_a_pass_and_none_is_dropped(source: FolderSource, batch: int) -> None:
    data = Bucketed(source, SHAPES, batch)
    step, order = 0, []
    for epoch in range(1, 21):
        while step < sum(epoch * count // batch for count in COUNTS.values()):
            order += data.example_order(0, range(step * batch, (step + 1) * batch))
            step += 1
        met = Counter(order)
        for members in data.buckets.members:
            whole = epoch * len(members) // batch * batch  # all but less than a batch
            assert sum(met[index] for index in members) == whole
            assert {met[index] for index in members} <= {whole // len(members), -(-whole // len(members))}
        if batch == 1:
            assert set(met.values()) == {epoch}
    for members in data.buckets.members:
        walk = [index for index in order if index in set(members.tolist())]
        passes = [walk[n : n + len(members)] for n in range(0, len(walk) - len(members) + 1, len(members))]
        assert all(sorted(one) == members.tolist() for one in passes)
        assert len(members) < 5 or passes[0] != passes[1]


def test_order_is_a_function_of_seed_and_step(source: FolderSource) -> None:
    data = Bucketed(source, SHAPES, batch=4)
    walk = data.example_order(0, range(400))
    assert data.example_order(0, range(200, 204)) == walk[200:204]
    assert data.example_order(0, [399, 0, 201]) == [walk[399], walk[0], walk[201]]
    assert data.example_order(1, range(400)) != walk
    shapes = [int(data.buckets.bucket[walk[step * 4]]) for step in range(100)]
    assert shapes[:24] != sorted(shapes[:24])  # buckets alternate


def test_a_batch_of_two_buckets_is_refused(source: FolderSource) -> None:
    data = Bucketed(source, SHAPES, batch=4)
    with pytest.raises(DataError, match="2 buckets at once, but buckets fill batches of 4"):
        data.get([int(data.buckets.members[0][0]), int(data.buckets.members[1][0])])
    with pytest.raises(DataError, match="need sizes"):
        Bucketed(source, [], batch=4)


class Net(nn.Module):
    """A network for images of any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        out: Tensor = self.layer(x)
        return out


def test_the_training_loop_takes_them_and_resumes(source: FolderSource) -> None:
    data = Bucketed(source, SHAPES, batch=4, random_crop=True)
    recipe = Recipe(
        lambda: Diffusion(Denoiser(Net(), Flow(), FlowVelocity())),
        shape=(3, 8, 8),
        sampling=Sampling(heun, trailing, steps=2),
        training=Training(batch=4, steps=14, lr=1e-2, parts=2),
        data=lambda: (data, None),
        modality=MODALITY,
    )
    accelerator = Accelerator(cpu=True)
    losses, states = [], []
    for start in (0, 6):
        state = prepare(recipe, accelerator)
        state.step = start
        walk = steps(recipe.training, state, accelerator, OrderedDataset(data, 0), BatchSharding(4, parts=2), workers=0)
        losses.append([float(step.loss) for step in walk])
        states.append(state)
    assert [len(each) for each in losses] == [14, 8] and all(math.isfinite(loss) for loss in losses[0])
    assert states[0].step == states[1].step == 14
    ahead = list(islice(stream(OrderedDataset(data, 0), BatchSharding(4), 6, workers=2), 8))
    for step, (batch,) in enumerate(ahead, start=6):
        assert torch.equal(batch["x"], OrderedDataset(data, 0)[range(step * 4, step * 4 + 4)]["x"])
    assert len({batch["x"].shape for (batch,) in ahead}) > 2


def test_latents_of_buckets_are_kept_without_decoding_again(source: FolderSource, tmp_path: Path) -> None:
    class Counting(Bucketed):
        """Counts the pictures it decodes."""

        decoded = 0

        def get(self, indices: Sequence[int]) -> Batch:
            self.decoded += len(indices)
            return super().get(indices)

    codec, opened = Scale(0.5, 0.1), []
    for _ in range(2):
        data = Counting(source, SHAPES, batch=4)
        opened.append((data, Cached(data, latents(codec.moments), tmp_path, model_hash(codec, "0.5, 0.1"))))
    assert [data.decoded for data, _ in opened] == [48, 0]
    plain = stream(OrderedDataset(Bucketed(source, SHAPES, batch=4), 5), BatchSharding(4, parts=2), 7)
    kept = stream(OrderedDataset(opened[1][1], 5), BatchSharding(4, parts=2), 7, workers=2)
    for theirs, mine in islice(zip(plain, kept), 12):
        for a, b in zip(theirs, mine, strict=True):
            assert torch.equal(codec.moments(a["x"]), b["moments"]) and a["caption"] == b["caption"]
            assert all(torch.equal(a[name], b[name]) for name in ("size", "crop", "target"))


def test_nothing_depends_on_the_folder_s_place(source: FolderSource, tmp_path: Path) -> None:
    for path, text in zip(source.paths, source.facts.captions or ()):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / path.name).with_suffix(".txt").write_text(text)
    moved, here = Bucketed(open_source(tmp_path), SHAPES, 4), Bucketed(source, SHAPES, 4)
    assert moved.example_order(0, range(40)) == here.example_order(0, range(40))
    assert [moved.fingerprint(index) for index in range(48)] == [here.fingerprint(index) for index in range(48)]
