"""`langevin edit`: every kind of edit through the command, what it refuses, and what a trained model makes of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from app.main import main
from core.denoiser import DenoiserLike
from core.edit import inpaint, invert, partial_grid, repaint
from core.grid import trailing
from core.inverse import DPS, Blur, Downsample, Mask, MeasurementPosterior, scalar_variance
from core.inverse.operator import Operator, gaussian_kernel
from core.media.sheet import picture as save_picture
from core.media.sheet import read_settings
from core.model import Model
from core.random import SamplingRNG
from core.recipe import load
from core.sample.euler import euler
from core.sample.heun import heun
from core.sample.step import run
from core.systems.diffusion import Diffusion
from core.train.state import newest
from image.data import digits
from image.metrics import Classifier, train_classifier
from tests.support.commands import Command, refused
from tests.support.runs import checkpoint

QUIET = ["--precision", "no", "--processes", "1", "--hold-out", "0", "--show", "0", "--log", "0", "--save", "0"]
FEW = ["--steps", "3"]


def picture(path: Path, size: tuple[int, int] = (8, 8), seed: int = 0, mode: str = "L") -> Path:
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def half(path: Path, size: tuple[int, int] = (8, 8)) -> Path:
    """White on the right."""
    values = np.zeros((size[1], size[0]), dtype=np.uint8)
    values[:, size[0] // 2 :] = 255
    Image.fromarray(values).save(path)
    return path


def seen(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of digits after three steps."""
    folder = tmp_path_factory.mktemp("pixels")
    assert main(["train", "flow", "--width", "16", "--steps", "3", "--batch", "8", "--out", str(folder), *QUIET]) == 0
    return folder


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a latent model of captioned digits after two steps."""
    folder = tmp_path_factory.mktemp("latents")
    short = ["--steps", "2", "--batch", "4", "--count", "40"]
    assert main(["train", "autoencoder", *short, "--out", str(folder / "code"), *QUIET]) == 0
    words = ["--autoencoder", str(folder / "code"), "--width", "8", "--text-width", "16"]
    assert main(["train", "ldm", *short, *words, "--out", str(folder / "run"), *QUIET]) == 0
    return folder / "run"


def test_strength_says_how_much_stays(command: Command, pixels: Path, tmp_path: Path) -> None:
    known, out, away = picture(tmp_path / "known.png"), tmp_path / "out.png", []
    for strength in (0, 0.2, 1):
        status, fragments, err = command(
            "edit", "image-to-image", pixels, known, "--strength", strength, "--out", out, "--steps", 6
        )
        assert status == 0 and "image-to-image" in fragments, err
        away.append(float(np.abs(seen(out) - seen(known)).mean()))
    assert away[0] <= 1 and away[0] < away[1] < away[2]


def test_settings_are_in_the_picture_and_make_it_again(command: Command, pixels: Path, tmp_path: Path) -> None:
    known, out = picture(tmp_path / "known.png"), tmp_path / "out.png"
    words = ["--prompt", "3", "--guidance", 2, "--strength", 0.5, "--seed", 4, "--sampler", "euler", *FEW]
    assert command("edit", "image-to-image", pixels, known, *words, "--out", out)[0] == 0
    settings = read_settings(out)
    wanted = {"edit": "image-to-image", "prompt": "3", "guidance": 2.0, "strength": 0.5, "seed": 4, "sampler": "euler"}
    assert {key: settings[key] for key in wanted} == wanted
    assert settings["source"] == str(known) and len(str(settings["source_sha256"])) == 64
    assert json.dumps(settings) and settings["steps"] == 3
    first = out.read_bytes()
    status, fragments, err = command("replay", out)
    assert (status, err) == (0, "") and "the same as out.png" in fragments
    assert (tmp_path / "out-replay.png").read_bytes() == first
    picture(known, seed=1)
    refused(command("replay", out), "known.png", "content differs")


def test_one_result_of_several_is_the_same_alone(command: Command, pixels: Path, tmp_path: Path) -> None:
    known, sheet, alone = picture(tmp_path / "known.png"), tmp_path / "sheet.png", tmp_path / "alone.png"
    assert command("edit", "image-to-image", pixels, known, "--count", 4, "--out", sheet, *FEW)[0] == 0
    assert command("edit", "image-to-image", pixels, known, "--first", 3, "--out", alone, *FEW)[0] == 0
    # Four of 8 x 8 with a line around each, eight times enlarged.
    assert seen(sheet).shape == (152, 152)
    assert np.abs(seen(sheet)[::8, ::8][10:18, 10:18] - seen(alone)).max() <= 1


@pytest.mark.parametrize("walks", [1, 3])
def test_inpainting_keeps_what_is_known_to_the_pixel(
    command: Command, pixels: Path, tmp_path: Path, walks: int
) -> None:
    known, mask, out = picture(tmp_path / "known.png"), half(tmp_path / "mask.png"), tmp_path / "out.png"
    words = ["--mask", mask, "--repaint", walks, "--out", out, *FEW]
    assert command("edit", "inpaint", pixels, known, *words)[0] == 0
    assert np.array_equal(seen(out)[:, :4], seen(known)[:, :4])
    assert np.abs(seen(out)[:, 4:] - seen(known)[:, 4:]).mean() > 10
    assert read_settings(out)["mask"] == str(mask)


@dataclass(frozen=True)
class Measuring:
    """A measurement as the command names it, and what it stands for."""

    words: list[str]
    operator: Operator


@dataclass(frozen=True)
class Restoring:
    """A method as the command names it, and the same by the core: (denoiser, operator, measured) -> a denoiser."""

    words: list[str]
    posterior: Callable[[DenoiserLike, Operator, Tensor], DenoiserLike]


RIGHT = torch.cat([torch.zeros(1, 8, 4), torch.ones(1, 8, 4)], dim=2)  # white in ``half``: nothing is known there
MEASURING = {
    "blur": Measuring(["--measurement", "blur", "--blur", "0.7"], Blur(gaussian_kernel(7, 0.7))),
    "downsample": Measuring(["--measurement", "downsample", "--factor", "4"], Downsample(4)),
    "mask": Measuring(["--measurement", "mask"], Mask(1 - RIGHT)),
}
RESTORING = {
    "pigdm": Restoring(
        ["--noise", "0.1"],
        lambda model, operator, y: MeasurementPosterior(model, operator, y, 0.1, scalar_variance(float(y.var()))),
    ),
    "covariance": Restoring(
        ["--method", "covariance"], lambda model, operator, y: MeasurementPosterior(model, operator, y, 0.02)
    ),
    "dps": Restoring(["--method", "dps", "--pull", "3"], lambda model, operator, y: DPS(model, operator, y, 3.0)),
}


def test_every_measurement_is_restored_by_every_method(command: Command, pixels: Path, tmp_path: Path) -> None:
    """Within a grey level of the core, no two alike; by the model's covariance near what was measured."""
    system, mask, noise = load(checkpoint(pixels)).system, half(tmp_path / "missing.png"), SamplingRNG(0, [0])
    asked, start = system.conditioner.null(1), noise.start((1, 8, 8)).float()
    times = trailing(system.denoiser.schedule, 3)
    made: dict[tuple[str, str], np.ndarray] = {}
    with torch.no_grad():
        free = run(heun(system.denoiser.bind(asked), start, times, noise))
    for of, measuring in MEASURING.items():
        known, operator = tmp_path / f"{of}.png", measuring.operator
        save_picture(operator.apply(digits()[1].images[:1])[0]).save(known)
        measured = torch.from_numpy(seen(known))[None, None].float() / 127.5 - 1
        measured = operator.apply(measured) if of == "mask" else measured
        for by, restoring in RESTORING.items():
            out = tmp_path / f"{of} by {by}.png"
            words = [*measuring.words, *restoring.words, *(["--mask", mask] if of == "mask" else [])]
            status, printed, err = command("edit", "restore", pixels, known, *words, "--out", out, *FEW)
            assert status == 0 and "restore" in printed, err
            restored = run(
                heun(restoring.posterior(system.denoiser, operator, measured).bind(asked), start, times, noise)
            )
            made[of, by] = seen(out)
            assert np.abs(made[of, by] - 127.5 * (restored.clamp(-1, 1)[0, 0].numpy() + 1)).max() < 1, (of, by)
            if by == "covariance":
                away, before = (float((operator.apply(x) - measured).abs().mean()) for x in (restored, free))
                assert away < 0.4 * before, (of, away, before)
    for one, other in itertools.combinations(made, 2):
        assert np.abs(made[one] - made[other]).max() > 3, (one, other)


def test_latent_models_edit_too(command: Command, latents: Path, tmp_path: Path) -> None:
    """A picture of another size, in colour: scaled, encoded, changed, decoded; kept pixels are kept all the same."""
    known, mask = picture(tmp_path / "known.png", (40, 32), mode="RGB"), half(tmp_path / "mask.png", (40, 32))
    out = tmp_path / "out.png"
    prompt = ["--prompt", "a red 7 on white", "--negative-prompt", "a blue 2 on black", "--guidance", 3]
    assert command("edit", "image-to-image", latents, known, *prompt, "--out", out, *FEW)[0] == 0
    assert seen(out).shape == (32, 32, 3)
    assert command("edit", "inpaint", latents, known, "--mask", mask, *prompt, "--out", out, *FEW)[0] == 0
    kept, cut = seen(out)[:, :16], seen(known)[:, 4:20]
    assert np.array_equal(kept, cut)
    shows = ["--source-prompt", "a blue 2 on white", "--prompt", "a red 2 on white", "--strength", 0.5]
    assert command("edit", "invert", latents, known, *shows, "--out", out, *FEW)[0] == 0
    refused(command("edit", "restore", latents, known, "--out", tmp_path / "no.png"), "diffuses a code")
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize(
    ("operation", "words", "fragments"),
    [
        ("image-to-image", ["--strength", "1.5"], ["--strength", "1.5"]),
        ("image-to-image", ["--strength", "-0.1"], ["--strength", "-0.1"]),
        ("image-to-image", ["--strength", "nan"], ["--strength", "nan"]),
        ("image-to-image", ["--guidance", "nan"], ["guidance", "nan"]),
        ("image-to-image", ["--prompt", "12"], ["'12'"]),
        ("image-to-image", ["--steps", "0"], ["at least 1"]),
        ("image-to-image", ["--count", "0"], ["--count"]),
        ("image-to-image", ["--strenght", "0.5"], ["'--strenght'", "'--strength'"]),
        ("image-to-image", ["--mask", "known.png"], ["'--mask'"]),
        ("restore", ["--measurement", "blurr"], ["'blurr'", "'blur'"]),
        ("restore", ["--method", "dsp"], ["'dsp'", "'dps'"]),
        ("restore", ["--noise", "-1"], ["not negative"]),
        ("restore", ["--measurement", "downsample", "--factor", "3"], ["does not divide"]),
        ("restore", ["--method", "dps", "--pull", "inf"], ["--pull"]),
        ("restore", ["--measurement", "mask"], ["--mask"]),
        ("restore", ["--strength", "0.5"], ["--strength"]),
        ("inpaint", [], ["--mask"]),
        ("invert", ["--sampler", "heun"], ["--sampler"]),
        ("invert", ["--strength", "1"], ["pure noise"]),
        ("extend", ["--seconds", "3"], ["image", "no extend", "inpaint"]),
        ("inpiant", [], ["'inpiant'", "'inpaint'"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_edits_that_cannot_be_are_refused(
    command: Command, pixels: Path, tmp_path: Path, operation: str, words: list[str], fragments: list[str]
) -> None:
    known, out = picture(tmp_path / "known.png"), tmp_path / "results" / "out.png"
    refused(command("edit", operation, pixels, known, "--out", out, *words), *fragments)
    assert not out.parent.exists()


def test_pictures_that_are_none_are_refused(command: Command, pixels: Path, tmp_path: Path) -> None:
    known, out = picture(tmp_path / "known.png"), tmp_path / "results" / "out.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(known.read_bytes()[:60])
    text = tmp_path / "text.png"
    text.write_text("hello")
    small = half(tmp_path / "small.png", (8, 7))
    for words, fragments in (
        (["image-to-image", pixels, tmp_path / "gone.png"], ["gone.png", "is no file"]),
        (["image-to-image", pixels, broken], ["broken.png", "cannot be read as an image"]),
        (["image-to-image", pixels, text], ["text.png", "cannot be read as an image"]),
        (["inpaint", pixels, known, "--mask", small], ["the mask is 8 x 7, the picture 8 x 8"]),
        (["inpaint", pixels, known, "--mask", text], ["text.png", "cannot be read as an image"]),
    ):
        refused(command("edit", *words, "--out", out), *fragments)
    assert not out.parent.exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of 8 x 8 digits by class that has learned for half a minute."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["--width", "32", "--steps", "1000", "--dropout", "0", "--out", str(folder), *QUIET]
    assert main(["train", "flow", *words]) == 0
    path = newest(folder)
    assert path is not None
    return load(path)


@pytest.fixture(scope="module")
def judge() -> Classifier:
    train = digits()[0]
    assert train.labels is not None
    return train_classifier(train.images, train.labels, epochs=30)


def real(count: int = 100) -> tuple[Tensor, Tensor]:
    held_out = digits()[1]
    assert held_out.labels is not None
    return held_out.images[:count], held_out.labels[:count]


def of_class(system: Diffusion, labels: Tensor):
    return system.conditioner({"label": labels})


@pytest.mark.slow
@torch.no_grad()
def test_a_trained_model_fills_what_is_missing(trained: Model, judge: Classifier) -> None:
    """Kept pixels stay to the bit; digits whose lower half is regenerated under their class are read as that class."""
    images, labels = real()
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:, :] = 1
    denoiser, cond = trained.system.denoiser, of_class(trained.system, labels)
    noise = SamplingRNG(0, range(len(images)))
    gone = (judge(images * (1 - mask) - mask).argmax(1) == labels).float().mean()
    for sampler in (heun, repaint(euler, 1, 3)):
        made = run(inpaint(denoiser, cond, images, mask, noise, sampler=sampler, grid=trailing, steps=15))
        assert torch.equal(made[:, :, :4], images[:, :, :4])
        read = (judge(made.clamp(-1, 1)).argmax(1) == labels).float().mean()
        assert float(read) > 0.9 > float(gone) + 0.2
        # What is made is of the spread of digits, and nearer to the truth than that of another digit.
        error = (made - images)[:, :, 4:].square().mean((1, 2, 3))
        other = (made - images.roll(1, 0))[:, :, 4:].square().mean((1, 2, 3))
        assert float(error.mean()) < 0.6 * float(other.mean())


@pytest.mark.slow
@torch.no_grad()
def test_a_trained_model_inverts_what_it_can_make_again(trained: Model, judge: Classifier) -> None:
    """There and back within 0.02 in the mean; the noise has unit size; asked for another class it is another digit."""
    images, labels = real()
    system = trained.system
    plain = system.denoiser.bind(of_class(system, labels))
    times = partial_grid(trailing, 0.98)(plain.schedule, 100)
    noisy = invert(plain, images, times)
    assert 0.7 < float(noisy.std()) < 1.3
    back = run(euler(plain, noisy, times, SamplingRNG(0, range(len(images)))))
    assert float((back - images).abs().mean()) < 0.02
    assert float((judge(back).argmax(1) == labels).float().mean()) > 0.9
    turned = (labels + 1) % 10
    edited = run(
        euler(system.guided(2.0).bind(of_class(system, turned)), noisy, times, SamplingRNG(0, range(len(images))))
    )
    assert float((judge(edited.clamp(-1, 1)).argmax(1) == turned).float().mean()) > 0.7


@pytest.mark.slow
@torch.no_grad()
def test_a_trained_model_restores_better_than_the_measurement(trained: Model) -> None:
    """By PiGDM, by the model's own covariance and by DPS: nearer to the truth than the measurement's pseudo-inverse."""
    images, labels = real(60)
    system = trained.system
    mask = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    variance = scalar_variance(float(images.var()))
    for operator, naive in (
        (Downsample(2), lambda y: Downsample(2).inverse(y)),
        (Mask(mask), lambda y: y + (1 - mask) * images.mean()),
    ):
        noise = 0.02 * torch.randn(operator.apply(images).shape, generator=torch.Generator().manual_seed(1))
        measured = operator.apply(images) + operator.apply(torch.ones_like(images)).ne(0) * noise
        before = float((naive(measured) - images).square().mean())
        errors = {}
        for name, seen_by in (
            ("pigdm", MeasurementPosterior(system.denoiser, operator, measured, 0.02, variance)),
            ("covariance", MeasurementPosterior(system.denoiser, operator, measured, 0.02)),
            ("dps", DPS(system.denoiser, operator, measured, 10.0)),
        ):
            start = SamplingRNG(0, range(len(images))).start((1, 8, 8)).float()
            bound = seen_by.bind(of_class(system, labels))
            made = run(heun(bound, start, trailing(bound.schedule, 20), SamplingRNG(0, range(len(images)))))
            errors[name] = float((made - images).square().mean())
        assert errors["pigdm"] < 0.7 * before, (operator, errors, before)
        assert errors["covariance"] < 0.7 * before, (operator, errors, before)
        assert errors["dps"] < 0.8 * before, (operator, errors, before)
