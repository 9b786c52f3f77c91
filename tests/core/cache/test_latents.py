"""Where the codec is costly, data are encoded once: never again after the first pass, with the same result."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy.modality import PointModality

from core.autoencoder import KLAutoencoder, Plan
from core.cache.latents import SAMPLED, InMemory, Process, encoded_once
from core.codec import Chain, Codec, Latents, Scale
from core.cond import Cond
from core.data.dataset import Batch, Dataset
from core.denoiser import Denoiser
from core.grid import trailing
from core.prediction import FlowVelocity
from core.progress import StoppedError
from core.random import TrainingRNG
from core.recipe import Recipe, Sampling, Training
from core.sample.euler import euler
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.train.loop import train
from core.weights.checkpoint import read
from tests.support.runs import checkpoint, quiet

COUNT, STEPS, BATCH = 24, 12, 8
TINY = Plan(widths=(8, 8), blocks=1, groups=4, latent=2)


class Net(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        found: Tensor = self.layer(x)
        return found


@dataclass(frozen=True)
class Pictures:
    """Noise with captions; ``random`` ones are mirrored by the data set itself."""

    count: int = COUNT
    random: bool = False

    def __len__(self) -> int:
        return self.count

    def get(self, indices: Sequence[int]) -> Batch:
        x = torch.randn(self.count, 3, 8, 8, generator=torch.Generator().manual_seed(self.count))
        return {
            "x": x[list(indices)],
            "caption": [f"picture {index}" for index in indices],
            "scene": [self] * len(indices),
        }

    def get_augmented(self, indices: Sequence[int], rng: TrainingRNG) -> Batch:
        batch = self.get(indices)
        return {**batch, "x": batch["x"].flip(-1)} if self.random else batch


@dataclass(frozen=True)
class Wide:
    """Pictures of two shapes, by turns."""

    def __len__(self) -> int:
        return COUNT

    def example_order(self, seed: int, positions: Sequence[int]) -> list[int]:
        return [position // BATCH % 2 + position % BATCH * 2 for position in positions]

    def get(self, indices: Sequence[int]) -> Batch:
        (odd,) = {index % 2 for index in indices}
        return {"x": torch.stack([torch.full((3, 8, 8 * (1 + odd)), index / COUNT) for index in indices])}


def codec(bands: int = 1) -> Latents:
    torch.manual_seed(3)
    return Latents(KLAutoencoder(TINY), bands=bands)


def recipe(data: object = Pictures(), augment: object = None) -> Recipe:
    def system() -> Diffusion:
        made = Latents(KLAutoencoder(TINY))
        return Diffusion(Denoiser(Net(), Flow(), FlowVelocity()), codec=made)

    training = Training(BATCH, STEPS, 1e-2, augment=augment)  # type: ignore[arg-type]
    held_out = Pictures(5)
    parts = lambda: (data, held_out)  # noqa: E731
    return Recipe(system, (2, 4, 4), Sampling(euler, trailing, 2), training, parts, PointModality(), name="toy")  # type: ignore[arg-type]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the encoder saw."""
    seen: list[int] = []
    moments = KLAutoencoder.moments

    def counted(self: KLAutoencoder, x: Tensor) -> Tensor:
        seen.append(len(x))
        return moments(self, x)

    monkeypatch.setattr(KLAutoencoder, "moments", counted)
    return seen


def weights(path: Path) -> dict[str, Tensor]:
    return {name: value for name, value in read(path).items() if name.startswith(("model/", "ema/"))}


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of a run that encodes at each step."""
    with monkeypatch.context() as patch:
        patch.setattr(Latents, "costly", False)
        return train(recipe(), quiet(tmp_path / "each", validate_every=4))


@pytest.mark.parametrize("memory", [2**32, 0])
def test_nothing_is_encoded_after_the_first_pass_and_the_run_is_the_same(
    tmp_path: Path, encoded: list[int], each_step: Path, memory: int
) -> None:
    assert sum(encoded) == STEPS * BATCH + 3 * 5
    encoded.clear()
    run = dataclasses.replace(quiet(tmp_path / "once", validate_every=4), memory=memory)
    assert same(train(recipe(), run), each_step)
    assert sum(encoded) <= COUNT + 5 + 16  # and a few examples from which the size is estimated
    assert (tmp_path / "once" / "latents").exists() == (memory == 0)


def test_a_resumed_run_finds_what_is_encoded(tmp_path: Path, encoded: list[int], each_step: Path) -> None:
    def stop(self: object, *rest: object) -> None:
        raise StoppedError

    run = dataclasses.replace(quiet(tmp_path / "run", save_every=5), memory=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "core.train.loop.Monitor.update", lambda self, state, *rest: stop(self) if state.step == 6 else None
        )
        with pytest.raises(StoppedError):
            train(recipe(), run)
    assert checkpoint(run.folder).stem.endswith("5")
    files = {file: file.stat().st_mtime_ns for file in (run.folder / "latents").rglob("*.safetensors")}
    encoded.clear()
    assert same(train(recipe(), run), each_step)
    assert sum(encoded) <= 16 and files == {file: file.stat().st_mtime_ns for file in files}


@dataclass(frozen=True)
class Flip:
    """An augmentation, of pixels if so."""

    changes_x: bool

    def __call__(self, batch: Batch, rng: TrainingRNG) -> Batch:
        return (
            {**batch, "x": batch["x"].flip(-1)}
            if self.changes_x
            else {**batch, "caption": [""] * len(batch["caption"])}
        )


@pytest.mark.parametrize(
    ("data", "augment", "once"),
    [
        (Pictures(), None, True),
        (Pictures(), Flip(False), True),
        (Pictures(), Flip(True), False),
        (Pictures(), lambda batch, draw: batch, False),
        (Pictures(random=True), None, False),
        (Pictures(random=True), Flip(False), False),
    ],
)
def test_pixels_that_change_are_encoded_each_time(
    tmp_path: Path, encoded: list[int], data: Pictures, augment: object, once: bool
) -> None:
    train(recipe(data, augment), quiet(tmp_path))
    assert (sum(encoded) < STEPS * BATCH) == once


@pytest.mark.parametrize("memory", [2**32, 0])
def test_pictures_of_several_shapes_are_described(tmp_path: Path, memory: int) -> None:
    made = codec()
    data = encoded_once(Wide(), made, None, torch.device("cpu"), tmp_path, memory)  # type: ignore[arg-type]
    for indices in ([1, 3, 5], [4, 0]):
        torch.testing.assert_close(data.get(indices)["moments"], made.moments(Wide().get(indices)["x"]))
    assert isinstance(data, InMemory) == (memory > 0)


def test_codecs_say_whether_they_are_costly() -> None:
    assert codec().costly and Chain(codec(), Scale(2)).costly
    trained = codec()
    trained.autoencoder.requires_grad_(True)
    assert not trained.costly
    assert not Codec().costly and not Scale(2).costly and not Chain(Scale(2), codec()).costly and not Chain().costly


def test_several_processes_share_what_is_missing(tmp_path: Path, encoded: list[int]) -> None:
    barrier, made, data = threading.Barrier(2), codec(), Pictures()

    def opened(rank: int) -> Dataset:
        process = Process(rank, 2, lambda: barrier.wait(30) and None)
        return encoded_once(data, made, None, torch.device("cpu"), tmp_path, 0, process)

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(opened, range(2)))
    assert sum(encoded) == COUNT + 2 * SAMPLED  # and the examples from which each estimates the size
    for part in parts:
        assert torch.allclose(part.get(range(COUNT))["moments"], made.moments(data.get(range(COUNT))["x"]), atol=1e-6)
