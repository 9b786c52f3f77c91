"""No piece of twelve lines is written twice."""

from __future__ import annotations

import subprocess
import sys

from tests.support.source import PACKAGES, ROOT


def test_nothing_is_written_twice() -> None:
    folders = [name for name in sorted(PACKAGES) if (ROOT / name).is_dir()]
    # Signatures count; imports, docstrings and comments do not.
    kinds = ("imports", "docstrings", "comments")
    options = ["--min-similarity-lines=12", "--ignore-signatures=n", *(f"--ignore-{kind}=y" for kind in kinds)]
    line = [sys.executable, "-m", "pylint", "--disable=all", "--enable=duplicate-code", "--score=n", "--persistent=n"]
    done = subprocess.run([*line, *options, *folders], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
