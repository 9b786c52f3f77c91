"""No piece of twelve lines is written twice."""

from __future__ import annotations

import subprocess
import sys

from tests.support.source import PACKAGES, ROOT


def test_nothing_is_written_twice() -> None:
    folders = [name for name in sorted(PACKAGES) if (ROOT / name).is_dir()]
    # A signature is the schema of a recipe, so recipes of a kind repeat it.
    kinds = ("imports", "docstrings", "comments", "signatures")
    options = ["--min-similarity-lines=12", *(f"--ignore-{kind}=y" for kind in kinds)]
    line = [sys.executable, "-m", "pylint", "--disable=all", "--enable=duplicate-code", "--score=n", "--persistent=n"]
    done = subprocess.run([*line, *options, *folders], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
