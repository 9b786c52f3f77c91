"""The tiny Flux and its student, through the one training loop: what each begins with, needs, keeps and costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.grid import trailing
from core.model import Model
from core.recipe import build, load
from core.sample.euler import euler
from core.schedule import Flow, shift_from_mu
from core.systems.sampling import Sampling
from core.train.run import Run
from core.train.state import newest
from core.weights.checkpoint import CheckpointError, read
from tests.support.runs import trained

SIZES = {"heads": 1, "doubles": 1, "singles": 1, "patch": 2, "text_width": 16}
SHORT = {"steps": 2, "batch": 4, "count": 40}
CAPTIONS = {"caption": ["a red 7 on the left on white", "a blue 2 above a small green 5 on grey"]}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Flux's run."""
    folder = tmp_path_factory.mktemp("flux")
    first = trained("image.recipes.autoencoder.tiny", {**SHORT}, folder / "autoencoder")
    trained("image.recipes.flux.tiny", {**SIZES, **SHORT, "autoencoder": str(first)}, folder / "teacher")
    return folder / "teacher"


@pytest.fixture(scope="module")
def student(teacher: Path) -> Path:
    """The folder of its student's run."""
    trained("image.recipes.flux.distilled", {**SIZES, **SHORT, "teacher": str(teacher)}, teacher.parent / "student")
    return teacher.parent / "student"


def opened(folder: Path) -> Model:
    path = newest(folder)
    assert path is not None
    return load(path)


def few(sampling: Sampling, steps: int = 2) -> Sampling:
    return dataclasses.replace(sampling, steps=steps)


def counted(net: nn.Module) -> list[int]:
    """The batch of every pass through the image stream that comes from now on."""
    batches: list[int] = []
    net.get_submodule("proj_in").register_forward_hook(lambda layer, given, output: batches.append(len(given[0])))
    return batches


def test_a_student_keeps_its_teachers_codec_and_words_and_learns_the_rest(teacher: Path, student: Path) -> None:
    before, after = opened(teacher).system.state_dict(), opened(student).system.state_dict()
    new = {name for name in after if name not in before}
    assert new == {
        f"denoiser.net.guidance.{layer}.{part}" for layer in ("first", "second") for part in ("weight", "bias")
    }
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    frozen = {name for name in before if not name.startswith("denoiser.")}
    assert frozen <= same and len(same) < len(before)
    path = newest(student)
    assert path is not None
    assert not any(name.startswith(("optimizer/conditioner", "optimizer/codec")) for name in read(path))


def test_a_student_needs_half_the_passes(teacher: Path, student: Path) -> None:
    passes = []
    for folder in (teacher, student):
        loaded = opened(folder)
        batches = counted(loaded.system.denoiser.net)
        samples = loaded.draw(0, range(3), few(loaded.sampling))
        assert samples.shape == (3, 3, 32, 32) and bool(samples.isfinite().all())
        passes.append(sum(batches))
    assert passes[0] == 2 * passes[1]


def test_a_new_student_is_its_teacher_without_guidance(teacher: Path) -> None:
    """At any guidance, because it does not hear it yet."""
    loaded = opened(teacher)
    made = build("image.recipes.flux.distilled", {**SIZES, **SHORT, "teacher": str(teacher)})
    system = made.system()
    assert made.initialize is not None
    made.initialize(system, Run(teacher))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor(0.6)
    with torch.no_grad():
        expected = loaded.system.denoiser.bind(loaded.system.conditioner(CAPTIONS))(x, t)
        output: list[Tensor] = [
            system.guided(scale, made.sampling.guide).bind(system.conditioner(CAPTIONS))(x, t) for scale in (1.0, 4.0)
        ]
    assert expected.std() > 0.1
    for value in output:
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


def test_a_student_is_sampled_without_its_teacher(
    student: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    path = newest(student)
    assert path is not None
    teacher_folder = student.parent / "teacher"
    hidden = teacher_folder.rename(student.parent / "hidden")
    try:
        loaded = load(path)
        assert loaded.draw(0, range(2), few(loaded.sampling)).shape == (2, 3, 32, 32)
    finally:
        hidden.rename(teacher_folder)


def test_what_cannot_teach_is_refused(student: Path, tmp_path: Path) -> None:
    for path, words in ((student, "no Flux that works with guidance"), (tmp_path / "gone", "does not exist")):
        with pytest.raises(CheckpointError, match=words):
            trained("image.recipes.flux.distilled", {**SIZES, **SHORT, "teacher": str(path)}, tmp_path / "run")
    other = {**SIZES, **SHORT, "heads": 2, "teacher": str(student.parent / "teacher")}
    with pytest.raises(ValueError, match="same sizes"):
        trained("image.recipes.flux.distilled", other, tmp_path / "run")


def test_published_sampling() -> None:
    """Dev: 28 Euler steps on linspace(1, 1/28) moved by its shift, guidance 3.5 in one pass; schnell: 4, unmoved."""
    dev = build("image.recipes.flux.paper", {"data": "x", "teacher": "y"}).sampling
    assert (dev.sampler, dev.steps, dev.guidance) == (euler, 28, 3.5)
    even = torch.linspace(1, 1 / 28, 28, dtype=torch.float64)
    shift = shift_from_mu(4096)
    expected = torch.cat([shift / (shift + 1 / even - 1), torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(dev.grid(Flow(), 28), expected)
    quick = build("image.recipes.flux.schnell", {"data": "x", "autoencoder": "y"}).sampling
    assert (quick.sampler, quick.steps, quick.guidance) == (euler, 4, 1.0)
    assert torch.equal(quick.grid(Flow(), 4), trailing(Flow(), 4))
    torch.testing.assert_close(quick.grid(Flow(), 4), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))
