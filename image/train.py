"""`python -m image.train RECIPE ...` is `langevin train RECIPE ...`."""

from __future__ import annotations

import sys

from app.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
