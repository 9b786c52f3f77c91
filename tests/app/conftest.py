"""What the tests of the command share: a model trained for three steps, and a way to run the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.main import main
from tests.support.commands import Command


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run."""
    folder = tmp_path_factory.mktemp("run")
    options = ["--width", "16", "--steps", "3", "--batch", "8", "--hold-out", "0", "--show", "0"]
    assert main(["train", "edm", "--out", str(folder), *options]) == 0
    return folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process: exit status, what it printed, what it complained."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:  # --help leaves this way
            status = int(stop.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
