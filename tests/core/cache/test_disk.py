"""The cache gives what the encoder would, calls it once an example, and notices every change and every damage."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.cache.disk import Cached, latents, model_hash, texts
from core.codec import Chain, Codec, Scale
from core.condition import ClassLabel
from core.data.dataset import Batch
from core.data.order import BatchSharding, OrderedDataset, stream
from core.denoiser import Denoiser
from core.prediction import FlowVelocity
from core.random import Stream, TrainingRNG
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.weights.checkpoint import CheckpointError

COUNT = 23


@dataclass
class Pictures:
    """Small captioned pictures, of two shapes if ``mixed``."""

    x: Tensor = field(default_factory=lambda: torch.randn(COUNT, 3, 4, 6, generator=torch.Generator().manual_seed(0)))
    captions: list[str] = field(default_factory=lambda: [f"picture {n} ä" for n in range(COUNT - 1)] + [""])
    mixed: bool = False

    def __len__(self) -> int:
        return len(self.x)

    def get(self, indices: Sequence[int]) -> Batch:
        x = self.x[list(indices)]
        x = x.mT if self.mixed and indices[0] % 2 else x
        return {"x": x, "caption": [self.captions[i] for i in indices], "label": torch.tensor(indices) % 2}

    def example_order(self, seed: int, positions: Sequence[int]) -> list[int]:
        return [position * 2 % COUNT for position in positions]


class Encoder(nn.Module):
    """Half the size, mean and log-variance; counts the examples it has seen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 2, stride=2)
        self.norm = nn.BatchNorm2d(4).eval()
        self.seen: list[int] = []

    def moments(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        found: Tensor = self.norm(self.layer(x))
        return found

    def words(self, captions: list[str]) -> dict[str, Tensor]:
        lengths = torch.tensor([len(caption) for caption in captions])
        return {"tokens": lengths[:, None, None].expand(-1, 2, 3).half(), "pooled": lengths[:, None].bfloat16()}

    def both(self, batch: Batch) -> Batch:
        return texts(self.words)({**batch, "x": self.moments(batch["x"])})


def opened(folder: Path, encoder: Encoder, data: Pictures | None = None, shard: int = 8) -> Cached:
    return Cached(data or Pictures(), encoder.both, folder, model_hash(encoder), batch=4, shard=shard)


def same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype
        if isinstance(a[name], Tensor)
        else a[name] == b[name]
        for name in a
    )


def test_it_is_the_encoder_s_output_and_asks_for_it_once(tmp_path: Path) -> None:
    encoder = Encoder()
    data = opened(tmp_path, encoder)
    assert sum(encoder.seen) == COUNT and max(encoder.seen) == 4 and len(data) == COUNT
    again = Encoder()
    second = opened(tmp_path, again)
    assert again.seen == []
    rows = [22, 3, 3, 17, 0]
    with torch.no_grad():
        expected = encoder.both(Pictures().get(rows))
    for each in (data, second):
        found = each.get(rows)
        assert found["caption"] == expected["caption"] and found["caption"][0] == ""
        assert found["tokens"].dtype == torch.float16 and found["pooled"].dtype == torch.bfloat16
        assert torch.equal(found["label"], expected["label"]) and torch.equal(found["tokens"], expected["tokens"])
        torch.testing.assert_close(found["x"], expected["x"])
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3 and not [path for path in tmp_path.rglob("*") if path.is_file() and path not in files]


def test_one_pixel_one_word_or_one_weight_misses(tmp_path: Path) -> None:
    opened(tmp_path, Encoder())
    pictures = Pictures()
    pictures.x[5, 2, 3, 1] += 1e-6
    pictures.captions[9] += "."
    changed = Encoder()
    data = opened(tmp_path, changed, pictures)
    assert sum(changed.seen) == 2
    with torch.no_grad():
        torch.testing.assert_close(data.get([5])["x"], changed.both(pictures.get([5]))["x"])
    for name in ("layer.bias", "norm.running_mean"):
        other = Encoder()
        with torch.no_grad():
            other.state_dict()[name][1] += 1e-6
        opened(tmp_path, other)
        assert sum(other.seen) == COUNT
    again = Encoder()
    opened(tmp_path, again)
    opened(tmp_path, again, pictures)
    assert again.seen == []


def test_the_hash_of_a_model_is_of_structure_weights_buffers_and_settings() -> None:
    first = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    same_weights = nn.Sequential(first[0], nn.SiLU())
    hashes = [model_hash(first), model_hash(same_weights), model_hash(first, "a"), model_hash(first, "b")]
    hashes += [model_hash(first, "a", "b"), model_hash(first, "ab"), model_hash(first.double()), model_hash("a")]
    assert len(set(hashes)) == len(hashes)
    first.float()
    assert model_hash(first) == hashes[0] and len(hashes[0]) == 64


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    class Killed(Encoder):
        def moments(self, x: Tensor) -> Tensor:
            if len(self.seen) == 3:
                raise KeyboardInterrupt
            return super().moments(x)

    with pytest.raises(KeyboardInterrupt):
        encoder = Killed()
        Cached(Pictures(), encoder.both, tmp_path, model_hash(Encoder()), batch=4, shard=8)
    rest = Encoder()
    data = opened(tmp_path, rest)
    assert sum(rest.seen) == COUNT - 8
    assert same(data.get(range(COUNT)), opened(tmp_path / "other", Encoder()).get(range(COUNT)))


def test_a_shard_that_is_cut_short_is_made_again(tmp_path: Path) -> None:
    expected = opened(tmp_path, Encoder()).get(range(COUNT))
    path = sorted(tmp_path.rglob("*.safetensors"))[0]
    content = path.read_bytes()
    for cut in (0, 5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        encoder = Encoder()
        data = opened(tmp_path, encoder)
        assert sum(encoder.seen) in (7, 8)
        assert same(data.get(range(COUNT)), expected)


def test_a_byte_that_changed_on_the_disk_is_noticed(tmp_path: Path) -> None:
    data = opened(tmp_path, Encoder())
    path = sorted(tmp_path.rglob("*.safetensors"))[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{path.name} in the cache is damaged or gone: delete it"):
        data.get(range(COUNT))
    os.unlink(path)
    with pytest.raises(CheckpointError, match="damaged or gone"):
        data.get(range(COUNT))
    encoder = Encoder()
    opened(tmp_path, encoder).get(range(COUNT))
    assert 0 < sum(encoder.seen) <= 8


def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = opened(tmp_path, Encoder()).folder
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.safetensors is not part of this cache"):
        opened(tmp_path, Encoder())
    assert (folder / "model.safetensors").exists()


def test_what_cannot_be_kept_is_refused_in_words(tmp_path: Path) -> None:
    for encode, message in (
        (lambda batch: {"x": batch["x"] / 0}, "'x' contains NaN or infinity.* float32"),
        (lambda batch: {"x": batch["x"][:1]}, "'x' has 1 rows for 4 examples"),
        (lambda batch: {"x": batch["x"], "words": (1, 2, 3, 4)}, "'words' is neither"),
    ):
        with pytest.raises(ValueError, match=message):
            Cached(Pictures(), encode, tmp_path, model_hash("a"), batch=4)
    with pytest.raises(ValueError, match="make one with model_hash"):
        Cached(Pictures(), lambda batch: batch, tmp_path, "../up")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_shapes_may_differ_between_batches_but_not_within(tmp_path: Path) -> None:
    encoder = Encoder()
    data = opened(tmp_path, encoder, Pictures(mixed=True))
    assert sum(encoder.seen) == COUNT and data.get([0, 2])["x"].shape == (2, 4, 2, 3)
    assert data.get([1, 3])["x"].shape == (2, 4, 3, 2)
    with pytest.raises(ValueError, match="'x' differs in shape within a batch"):
        data.get([0, 1])


def test_order_and_workers_are_those_of_the_data_below(tmp_path: Path) -> None:
    data = opened(tmp_path, Encoder())
    assert OrderedDataset(data, 0).indices(range(30)) == Pictures().example_order(0, range(30))
    for (mine,), (theirs,) in islice(
        zip(stream(OrderedDataset(data, 0), BatchSharding(4), 2, workers=2), _from(data, 2)), 5
    ):
        assert same(mine, theirs)
    over = Cached(data, lambda batch: {"x": batch["x"] * 2}, tmp_path, model_hash("twice"))
    assert torch.equal(over.get([4])["x"], 2 * data.get([4])["x"])
    assert data.fingerprint(0) != data.fingerprint(1)


def _from(data: Cached, start: int) -> list[list[Batch]]:
    return list(islice(stream(OrderedDataset(data, 0), BatchSharding(4), start), 5))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, time: Tensor, cond: object = None) -> Tensor:
        return self.scale * x


class Sampled(Codec):
    """The encoder's posterior, sampled for each draw."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def moments(self, data: Tensor) -> Tensor:
        return self.encoder.moments(data)

    def sample(self, moments: Tensor, rng: TrainingRNG | None = None) -> Tensor:
        mean, log_variance = moments.chunk(2, dim=1)
        assert rng is not None
        return mean + torch.exp(0.5 * log_variance) * rng.normal(mean, Stream.CODEC)


def test_training_on_the_cache_is_training_on_pictures(tmp_path: Path) -> None:
    """Posteriors are kept whole: a picture that is met again has another sample, the same as without a cache."""
    encoder = Encoder()
    system = Diffusion(
        Denoiser(Net(), Flow(), FlowVelocity()), ClassLabel(2, 4), Chain(Sampled(encoder), Scale(0.2, 1))
    )
    data = Cached(Pictures(), latents(system.codec.moments), tmp_path, model_hash(system.codec))
    seen = len(encoder.seen)
    losses = []
    for positions in (range(8), range(23, 31)):
        rows, rng = [position % COUNT for position in positions], TrainingRNG(0, positions)
        with torch.no_grad():
            losses.append(system.loss(data.get(rows), rng).each)
            assert len(encoder.seen) == seen
            torch.testing.assert_close(losses[-1], system.loss(Pictures().get(rows), rng).each)
            seen = len(encoder.seen)
    assert not torch.equal(*losses)
    (batch,) = next(stream(OrderedDataset(data, 0), BatchSharding(4), 5))
    assert "x" not in batch and batch["caption"] == [f"picture {n} ä" for n in (17, 19, 21)] + ["picture 0 ä"]
