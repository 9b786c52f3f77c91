"""``import langevin``: the whole job in a few lines, a foreign network held to closed forms, and examples that run."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import langevin
from app.main import main
from core.cond import Cond
from core.flags import IN_MEMORY, record
from core.model import Request
from core.prediction import X0
from core.sample.heun import heun
from core.sample.step import Step
from core.schedule import Flow
from tests.support.source import ROOT

SEEN: list[Step] = []


def the_job(folder: Path, lora: Path, out: Path) -> tuple[langevin.Samples, langevin.Samples]:
    model = langevin.open(folder)
    pictures = model.sample(
        "a red cat", negative_prompt="a dog", count=2, seeds=[1, 2], size=(32, 48),
        sampler="dpmpp_2m", steps=3, guidance=5, loras={lora: 0.7}, on_step=SEEN.append,
    )  # fmt: skip
    pictures.save(out / "pictures.png")
    photo = pictures.images[0].resize((32, 32))
    model.edit("image-to-image", photo, prompt="a dog", strength=0.5, steps=3).save(out / "changed.png")
    mask = Image.new("L", photo.size)
    mask.paste(255, (16, 0, 32, 32))  # white, the right half, is generated
    filled = model.edit("inpaint", photo, mask=mask, prompt="a dog", steps=3)
    filled.save(out / "filled.png")
    return pictures, filled


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A LoRA of one layer of the Stable Diffusion of the tests."""
    key, width = "unet.down_blocks.0.resnets.0.conv1", 32
    numbers = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, width, 3, 3, generator=numbers), torch.randn(width, 4, 1, 1, generator=numbers)
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


def lines_of(function: object) -> int:
    """Lines of code in a function's body."""
    (tree,) = ast.parse(inspect.getsource(function)).body  # type: ignore[arg-type]
    assert isinstance(tree, ast.FunctionDef)
    return 1 + (tree.body[-1].end_lineno or 0) - tree.body[0].lineno


def test_the_whole_job_takes_fourteen_lines(folders: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    assert lines_of(the_job) <= 14
    SEEN.clear()
    pictures, filled = the_job(folders["stable_diffusion"], lora, tmp_path)
    assert [image.size for image in pictures.images] == [(48, 32)] * 2
    assert len(SEEN) == 6  # three steps of two seeds
    photo = np.asarray(pictures.images[0].resize((32, 32)))
    new = np.asarray(Image.open(tmp_path / "filled.png").convert("RGB"))
    assert (new[:, :16] == photo[:, :16]).all() and (new[:, 16:] != photo[:, 16:]).any()
    assert (np.asarray(filled.images[0]) == new).all()
    # A seed's picture does not depend on what is made beside it, and the LoRA matters.
    model = langevin.open(folders["stable_diffusion"])
    same = {"negative_prompt": "a dog", "size": (32, 48), "sampler": "dpmpp_2m", "steps": 3, "guidance": 5}
    alone = model.sample("a red cat", seed=2, count=1, loras=[f"{lora}:0.7"], **same)
    assert torch.allclose(alone.tensor[0], pictures.tensor[1], atol=1e-5)
    without = model.sample("a red cat", seed=2, count=1, **same)
    assert not torch.allclose(without.tensor, alone.tensor, atol=1e-3)


def test_flags_that_there_are_not_are_refused_by_name(folders: dict[str, Path]) -> None:
    model = langevin.open(folders["stable_diffusion"])
    with pytest.raises(ValueError, match="negative_prompt"):
        model.sample("a cat", negativ_prompt="a dog")
    with pytest.raises(ValueError, match="inpaint"):
        model.edit("inpant", Image.new("RGB", (32, 32)))
    with pytest.raises(ValueError, match="seeds"):
        model.sample("a cat", seeds=[1, 2], count=3)
    with pytest.raises(AttributeError, match="wrap"):
        langevin.warp  # type: ignore[attr-defined] # noqa: B018


MEANS = torch.tensor([-1.0, 1.0, 0.0])  # of two classes, and of none, whose data are one pixel each
SPREAD = 0.5


def exact(x: Tensor, time: Tensor, label: Tensor) -> Tensor:
    """E[x0 | x, label] of Gaussian data on the straight path x = (1 - t) x0 + t eps."""
    alpha, sigma = 1 - time.view(-1, 1, 1, 1), time.view(-1, 1, 1, 1)
    mean = MEANS.to(x)[label].view(-1, 1, 1, 1)
    gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    return mean + gain * (x - alpha * mean)


def test_a_foreign_network_does_all_that_a_model_does() -> None:
    model = langevin.wrap(exact, (1, 2, 2), Flow(), X0(), classes=2)
    assert lines_of(test_a_foreign_network_does_all_that_a_model_does) <= 25
    for label in (0, 1):
        made = model.sample(str(label), count=400, steps=40).tensor
        assert float(made.mean()) == pytest.approx(float(MEANS[label]), abs=0.06)
        assert float(made.std()) == pytest.approx(SPREAD, abs=0.04)
    # Guidance by w moves the mean of the data from that of no class by w: at every level both are Gaussians alike.
    guided = model.sample("1", count=400, steps=40, guidance=3.0).tensor
    assert float(guided.mean()) == pytest.approx(3.0, abs=0.06)
    known, mask = torch.full((1, 2, 2), 0.25), torch.tensor([[[-1.0, 1.0], [-1.0, 1.0]]])
    filled = model.edit("inpaint", known, mask=mask, prompt="0", count=400, steps=40).tensor
    assert (filled[..., 0] == 0.25).all()
    assert float(filled[..., 1].mean()) == pytest.approx(-1.0, abs=0.08)
    x = torch.randn(5, 1, 2, 2)
    score = model.log_prob(x, {"label": torch.ones(5, dtype=torch.long)})
    truth = torch.distributions.Normal(1.0, SPREAD).log_prob(x).sum((1, 2, 3))
    assert torch.allclose(score.value.float(), truth, atol=1e-3)


def test_a_sampler_of_ones_own_is_used_and_recorded() -> None:
    used: list[Sequence[int]] = []

    def mine(denoise, x, times, noise):
        used.append(x.shape)
        return heun(denoise, x, times, noise)

    model = langevin.wrap(exact, (1, 2, 2), Flow(), X0(), classes=2)
    made = model.sample("1", count=3, sampler=mine, steps=4)
    assert used == [(3, 1, 2, 2)] and made.settings["sampler"] == IN_MEMORY
    assert torch.equal(made.tensor, model.sample("1", count=3, sampler="heun", steps=4).tensor)


def test_what_lay_in_no_file_is_not_replayed_and_no_prompt_is_taken_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = langevin.train("edm", tmp_path / "run", width=16, steps=1, batch=4)
    model.sample("3", count=2, sampler=heun, steps=2).save(tmp_path / "own.png")
    assert main(["replay", str(tmp_path / "own.png")]) == 2
    assert "lay in no file" in capsys.readouterr().err
    assert IN_MEMORY not in record(Request(prompt="in memory")).values()


def test_labels_of_no_class_are_refused() -> None:
    from core.condition import Labels

    conditioner = Labels(2)
    asked: Cond = conditioner({"label": torch.tensor([0, 2])})
    assert asked.label is not None and asked.label.tolist() == [0, 2]  # 2 asks for no class
    with pytest.raises(ValueError, match="0 to 1"):
        conditioner({"label": torch.tensor([3])})


def example(name: str, *words: object) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, str(ROOT / "examples" / name), *map(str, words)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_training(tmp_path: Path) -> None:
    assert "samples.png" in example("train.py", tmp_path, 2)
    assert Image.open(tmp_path / "samples.png").size != (8, 8)


def test_the_example_of_a_network(tmp_path: Path) -> None:
    assert "log p of eight" in example("own_network.py", tmp_path, 20)
    assert {path.name for path in tmp_path.glob("*.png")} == {"digits.png", "sevens.png", "halves.png"}


def test_the_example_of_a_sampler(tmp_path: Path) -> None:
    langevin.train("edm", tmp_path / "run", width=16, steps=2, batch=4)
    printed = example("own_sampler.py", tmp_path / "run")
    order = float(printed.split()[1].rstrip(","))
    assert order == pytest.approx(2, abs=0.2)
    assert (tmp_path / "run" / "ralston.png").is_file()
