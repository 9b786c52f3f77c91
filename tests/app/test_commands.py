"""The command from end to end: train, resume, sample, replay, evaluate, and help that teaches."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.main import COMMANDS
from core.finetune import Beginning
from core.media.sheet import read_settings
from core.registry import find_in, operations, parameters, presets, systems
from tests.support.commands import ROOT, Command, environment, refused


def test_bare_command_teaches(command: Command) -> None:
    status, out, _ = command()
    assert status == 0
    for word in ("list", "train", "sample", "replay", "evaluate", "solvers", "demo"):
        assert f"  {word}" in out


def test_list_and_info(command: Command, run_folder: Path) -> None:
    _, out, _ = command("list")
    assert all(name in out for name in ("ddpm", "score_sde", "edm", "dit", "flow"))
    _, out, _ = command("info", "ddpm")
    assert "--preset tiny" in out and "2006.11239" in out
    _, out, _ = command("info", run_folder)
    assert "image.recipes.edm.tiny" in out and "width=16" in out and "parameters" in out


class UnderstoodError(Exception):
    """Raised in the place of what a command does with its options."""


@pytest.fixture
def only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that has understood its options raises UnderstoodError; at every path lies a trained model."""
    plain = argparse.ArgumentParser.parse_args

    def anywhere(path: Path, recipe: str | None, preset: str | None, rank: int | None, other_data: bool) -> Beginning:
        found = find_in("image", recipe or ("finetune" if rank is None else "lora"), preset)
        return Beginning(path, *found, {"model": str(path)}, False)

    def understood(parser: argparse.ArgumentParser, words: list[str]) -> None:
        plain(parser, words)
        raise UnderstoodError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", understood)
    monkeypatch.setattr("core.finetune.beginning", anywhere)


@pytest.mark.usefixtures("only_read")
@pytest.mark.parametrize("word", COMMANDS)
def test_help_of_every_command_has_examples_that_are_understood(command: Command, word: str) -> None:
    status, out, _ = command(word, "--help")
    assert status == 0
    examples = [shlex.split(line.split(" >")[0]) for line in out.splitlines() if line.startswith("  langevin ")]
    assert examples, out
    for program, name, *words in examples:
        assert (program, name) == ("langevin", word)
        if word == "list":  # which has no options
            assert command(name, *words)[0] == 0
        else:
            with pytest.raises(UnderstoodError):
                command(name, *words)


def test_help_of_edit_lists_every_operation_and_each_has_help(command: Command) -> None:
    _, out, _ = command("edit", "--help")
    for domain, own in operations().items():
        assert f"{domain}:" in out.splitlines()
        for name in own:
            assert f"\n  {name} " in out
            status, about, _ = command("edit", name, "--help")
            assert status == 0 and f"langevin edit {name}" in about and "--count" in about


def test_help_and_list_leave_torch_alone() -> None:
    """They read the source of recipes and import none; `list` fits a terminal of 80 columns."""
    lines = [[], ["list"], ["train", "--help"], *([word, "--help"] for word in COMMANDS)]
    code = (
        "import sys, io, contextlib, json\nfrom app.main import main\nprinted = []\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        "        main(words)\n"
        "    assert 'torch' not in sys.modules, words\n"
        "    printed.append(out.getvalue())\n"
        "print(json.dumps(printed))"
    )
    narrow = {**environment(), "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines)], cwd=ROOT, env=narrow, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert all(printed)
    assert max(map(len, printed[1].splitlines())) <= 80


def lines_of_pages() -> list[str]:
    """The command lines in README.md and docs, without the notes behind two spaces."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    typed = [line for page in pages for line in page.read_text().splitlines() if line.startswith("langevin ")]
    return sorted({re.split(r"\s{2,}| # ", line)[0].split(" > ")[0] for line in typed})


@pytest.mark.usefixtures("only_read")
@pytest.mark.parametrize("line", lines_of_pages())
def test_command_lines_in_the_pages_are_understood(command: Command, line: str) -> None:
    _, name, *words = shlex.split(line)
    if name == "list":
        assert command(name, *words)[0] == 0
        return
    with pytest.raises(UnderstoodError):
        command(name, *words)


def test_help_of_a_recipe_shows_its_own_options(command: Command) -> None:
    status, out, _ = command("train", "edm", "--help")
    assert status == 0
    assert "--width" in out and "--preset" in out and "--seed" in out
    assert "  langevin train edm --preset tiny --out runs/edm-tiny" in out.splitlines()


@pytest.mark.parametrize(
    ("typed", "offered", "not_offered"),
    [
        ("", "train", "edm"),
        ("train", "edm", "inpaint"),
        ("train", "--from", "--seed"),
        ("train edm", "--width", "--prompt"),
        ("train edm --preset", "small", "--width"),
        ("edit", "inpaint", "edm"),
        ("edit inpaint model.safetensors", "--mask", "--strength"),
        ("sample model.safetensors", "--negative-prompt", "--mask"),
        ("solvers", "--only", "--out"),
    ],
)
def test_what_may_follow_is_offered(command: Command, typed: str, offered: str, not_offered: str) -> None:
    _, out, _ = command("completion", "words", "--typed", typed)
    assert offered in out.splitlines() and not_offered not in out.splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_completes_in_bash(command: Command, tmp_path: Path) -> None:
    _, script, _ = command("completion", "bash")
    (tmp_path / "langevin").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m app.main "$@"\n')
    (tmp_path / "langevin").chmod(0o755)
    typed = 'COMP_WORDS=(langevin train edm --wi); COMP_CWORD=3; _langevin; echo "${COMPREPLY[@]}"'
    environ = environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", f"{script}\n{typed}"], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.stdout.split() == ["--width"], done.stderr


def test_every_parameter_of_every_recipe_has_help() -> None:
    known = parameters()
    for system, outline in systems().items():
        for preset, function in presets(importlib.import_module(outline.module)).items():
            for name in inspect.signature(function).parameters:
                assert name in known and len(known[name].text) > 10, (system, preset, name)


def test_sample_is_the_same_in_every_batch_and_replays(command: Command, run_folder: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    common = ["sample", run_folder, "--count", 6, "--steps", 4, "--sampler", "edm", "--prompt", "3,5", "--seed", 9]
    assert command(*common, "--out", one)[0] == 0
    assert command(*common, "--batch", 2, "--out", two)[0] == 0
    assert np.abs(np.asarray(Image.open(one), int) - np.asarray(Image.open(two), int)).max() <= 1
    settings = read_settings(one)
    assert (settings["sampler"], settings["steps"], settings["prompt"], settings["seed"]) == ("edm", 4, "3,5", 9)

    status, out, _ = command("replay", one)
    assert status == 0 and "the same as one.png" in out
    assert (tmp_path / "one-replay.png").read_bytes() == one.read_bytes()


def test_replay_says_when_the_checkpoint_is_another(command: Command, run_folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert command("sample", run_folder, "--count", 2, "--steps", 2, "--out", sheet)[0] == 0
    other = tmp_path / "other.safetensors"
    other.write_bytes(next(run_folder.glob("*/*.safetensors")).read_bytes() + b" ")
    status, _, err = command("replay", sheet, "--checkpoint", other)
    assert status == 2 and "content differs" in err
    status, _, err = command("replay", sheet, "--checkpoint", tmp_path / "gone.safetensors")
    assert status == 2 and "--checkpoint" in err


def test_foreign_sampler_names_are_understood(command: Command, run_folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    for name, ours in (("DPMSolverMultistepScheduler", "dpmpp_2m"), ("euler_a", "euler_ancestral")):
        assert command("sample", run_folder, "--count", 2, "--steps", 2, "--sampler", name, "--out", sheet)[0] == 0
        assert read_settings(sheet)["sampler"] == ours


def test_evaluate_measures(command: Command, run_folder: Path, tmp_path: Path) -> None:
    few = ["--count", 60, "--steps", 2, "--judge-time", 3]
    status, out, err = command("evaluate", run_folder, *few, "--out", tmp_path / "figures.json")
    assert status == 0 and "training a classifier of the data" in err
    page = json.loads((tmp_path / "figures.json").read_text())
    figures = page["figures"]
    assert figures["samples"] == 60
    untrained, real = (figures[f"Frechet distance, uncorrected{end}"] for end in ("", ", real"))
    assert untrained > 3 * real > 0
    assert figures["loss, held-out"]["low"] > 0
    assert "read as the asked class" in out and all(sentence in out for sentence in page["advice"])
    assert any("Not there yet" in sentence for sentence in page["advice"])


def test_evaluate_prints_json_alone(command: Command, run_folder: Path) -> None:
    few = ["--count", 20, "--steps", 2, "--judge-time", 1, "--prompt", "3"]
    status, out, _ = command("evaluate", run_folder, *few, "--json")
    page = json.loads(out)
    assert status == 0 and page["figures"]["samples"] == 20 and page["advice"]
    assert page["settings"]["prompt"] == "3"
    refused(command("evaluate", run_folder, "--judge-time", "0"), "--judge-time must be above zero")
    refused(command("evaluate", run_folder, "--features", run_folder, *few), "holds no network")


def test_samples_are_written_as_numbers_and_as_files(command: Command, run_folder: Path, tmp_path: Path) -> None:
    few = ["--count", 3, "--steps", 2, "--prompt", "0,1,2"]
    assert command("sample", run_folder, *few, "--out", tmp_path / "samples.npz")[0] == 0
    with np.load(tmp_path / "samples.npz") as found:
        images = found["images"]
    assert images.shape == (3, 1, 8, 8) and images.dtype == np.float32
    assert command("sample", run_folder, *few, "--out", tmp_path / "each")[0] == 0
    files = sorted((tmp_path / "each").iterdir())
    assert [file.name for file in files] == ["00000.png", "00001.png", "00002.png"]
    for file, numbers in zip(files, images):
        pixels = np.asarray(Image.open(file), dtype=np.float64)
        assert pixels.shape == (8, 8) and abs(pixels / 127.5 - 1 - numbers[0].clip(-1, 1)).max() < 0.005
    for file in (tmp_path / "samples.npz", files[2]):
        status, out, _ = command("replay", file)
        assert status == 0 and f"the same as {file.name}" in out
    refused(command("sample", run_folder, *few, "--out", tmp_path / "each"), "with files in it")
    np.savez(tmp_path / "samples.npz", images=images + 0.1)
    assert command("replay", tmp_path / "samples.npz")[0] == 2


def test_a_finished_run_is_not_trained_again(command: Command, run_folder: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in run_folder.rglob("*.safetensors")}
    options = ["--width", 16, "--steps", 3, "--batch", 8, "--hold-out", 0, "--show", 0]
    assert command("train", "edm", "--out", run_folder, *options)[0] == 0
    assert {path.name: path.stat().st_mtime_ns for path in run_folder.rglob("*.safetensors")} == before


def test_one_sampler_is_certified(command: Command) -> None:
    status, out, _ = command("solvers", "--only", "heun")
    assert status == 0
    assert "| heun | 2 | 2 |" in out
