"""What `import core`, with every module of it, costs beside `import torch`: best of alternating fresh processes.

python benchmarks/import_cost.py [runs]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def seconds(statement: str) -> float:
    """Wall seconds of one statement in a fresh interpreter."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    modules = [f"core.{path.stem}" for path in sorted((ROOT / "core").glob("*.py")) if path.stem != "__init__"]
    everything = "import core.sample, " + ", ".join(modules)
    pairs = [(seconds("import torch"), seconds(everything)) for _ in range(runs)]
    bare, full = min(bare for bare, _ in pairs), min(full for _, full in pairs)
    print(f"import torch {bare:.2f} s, import core with all its modules {full:.2f} s: {full - bare:+.2f} s")


if __name__ == "__main__":
    main()
